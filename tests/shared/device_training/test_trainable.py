"""The ONNX file that training artifacts are made from: PyTorch's weights under PyTorch's names, PyTorch's logits."""

from pathlib import Path

from shared.device_training.trainable import export_trainable
from shared.execution.runtimes import open_runtime
from shared.network.model import Checkpoint
from tests.support import EXPORT_NAMES, classifier

import numpy as np
import onnx
import torch


def test_every_weight_is_there_under_its_own_name_and_the_file_computes_what_pytorch_does(tmp_path: Path) -> None:
    model = classifier("lstm", ragged=True, standardize=True)
    content = export_trainable(Checkpoint(model, {}), EXPORT_NAMES)
    stored = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(content).graph.initializer
    }
    for weight_name, weight in model.named_parameters():
        np.testing.assert_array_equal(stored[weight_name], weight.detach().numpy())

    (tmp_path / "model.onnx").write_bytes(content)
    generator = np.random.default_rng(0)
    sequences = generator.normal(size=(9, 5, 2)).astype(np.float32)
    lengths = generator.integers(1, 6, 9, np.int32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(sequences), torch.from_numpy(lengths)).numpy()
    np.testing.assert_allclose(open_runtime(tmp_path / "model.onnx").logits(sequences, lengths), expected, atol=1e-6)

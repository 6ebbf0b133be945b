"""A GRU's loop in a Core ML program: what it computes, and what it passes from step to step."""

from pathlib import Path
from typing import Any

import export_coreml
from shared.conversion.coreml_gru import register_gru
from shared.coreml_reference import CoreMLReference
from shared.coreml_reference.program import load_program
from shared.files.mlpackage import all_operations
from shared.files.quiet import import_coremltools
from shared.network.model import Checkpoint
from tests.support import EXPORT_NAMES, EXPORT_PARAMS, classifier

import numpy as np
import pytest
import torch
from torch import Tensor, nn


class Net(nn.Module):
    """A GRU whose outputs and last states are both read, from first states that are not zero."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 5, num_layers=2, bidirectional=True, **options)

    def forward(self, x: Tensor, initial: Tensor) -> Tensor:
        """All outputs, and the last states in place of the last outputs."""
        outputs, states = self.gru(x, initial)
        return torch.cat([outputs[:-1], states.flatten()[: outputs[0].numel()].view(outputs[:1].shape)])


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"batch_first": True}], ids=str)
def test_it_computes_what_torch_does(tmp_path: Path, options: dict[str, Any]) -> None:
    """Whichever way a net of one's own makes and reads it."""
    ct = import_coremltools()
    register_gru()
    torch.manual_seed(0)
    model = Net(**options).eval()
    arguments = (torch.randn(4, 4, 3), torch.randn(4, 4, 5))
    program = ct.convert(
        torch.jit.trace(model, arguments),
        inputs=[ct.TensorType(name, tuple(value.shape)) for name, value in zip(["x", "h"], arguments, strict=True)],
        outputs=[ct.TensorType("y")],
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    program.save(str(tmp_path / "net.mlpackage"))
    feeds = {name: value.numpy() for name, value in zip(["x", "h"], arguments, strict=True)}
    found = CoreMLReference(tmp_path / "net.mlpackage").predict(feeds)["y"]
    with torch.inference_mode():
        np.testing.assert_allclose(found, model(*arguments).numpy(), atol=1e-6)


def loops(folder: Path, precision: export_coreml.Precision, **options: Any) -> list[Any]:
    """The loops of an exported GRU."""
    model = Checkpoint(classifier("gru", hidden_size=8, **options), {})
    path = folder / "gru.mlpackage"
    export_coreml.save(export_coreml.export_coreml(model, EXPORT_NAMES, EXPORT_PARAMS, precision), path)
    return [one for one in all_operations(load_program(path, None).function) if one.op_type == "while_loop"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_only_states_that_are_read_are_kept(tmp_path: Path, precision: export_coreml.Precision) -> None:
    """Of two layers the first one's; of the last layer nothing but the last state."""
    both = loops(tmp_path, precision, layers=2)
    assert [len(one.loop_vars) for one in both] == [3, 2]
    assert [sum(inner.op_type == "scatter" for inner in all_operations(one.blocks[1])) for one in both] == [1, 0]


def test_in_half_precision_no_step_casts_the_states_of_all_steps(tmp_path: Path) -> None:
    [first, _] = loops(tmp_path, "fp16", layers=2)
    casts = [one for one in all_operations(first.blocks[1]) if one.op_type == "cast"]
    assert casts
    assert all(one.x.rank < 3 or one.x.shape[0] == 1 for one in casts)

"""Small packages for the tests of the evaluator, written by coremltools from programs or from torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.files.quiet import import_coremltools

import numpy as np
import pytest
import torch

ct = import_coremltools()


class Classifier(torch.nn.Module):
    """The pipeline's default architecture."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(1, 50, batch_first=True)
        self.linear = torch.nn.Linear(50, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.linear(self.lstm(x)[1][0][-1])


class BakedClassifier(Classifier):
    """The same with the mistake that bakes the traced batch size into the initial state."""

    def forward(self, x: torch.Tensor) -> Any:
        zeros = torch.zeros(1, int(x.size(0)), 50)
        return self.linear(self.lstm(x, (zeros, zeros))[1][0][-1])


def convert(source: Any, path: Path, target: str = "iOS16", precision: str = "FLOAT32", **options: Any) -> Path:
    """Convert a program or a traced module and save it."""
    model = ct.convert(
        source,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target[target],
        compute_precision=ct.precision[precision],
        skip_model_load=True,
        **options,
    )
    model.save(str(path))
    return path


def convert_classifier(path: Path, module: torch.nn.Module, traced: int = 3, default: int = 3, **options: Any) -> Path:
    """Convert a classifier traced with one batch size, for every batch size."""
    return convert(
        torch.jit.trace(module.eval(), torch.rand(traced, 6, 1), check_trace=False),
        path,
        inputs=[ct.TensorType("sequence", (ct.RangeDim(1, 4096, default=default), 6, 1), dtype=np.float32)],
        outputs=[ct.TensorType("logits", dtype=np.float32)],
        **options,
    )


@pytest.fixture(scope="session")
def network() -> Classifier:
    torch.manual_seed(0)
    return Classifier().eval()


@pytest.fixture(scope="session")
def classifier_fp32(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_classifier(tmp_path_factory.mktemp("classifier") / "fp32.mlpackage", network)


@pytest.fixture(scope="session")
def classifier_fp16(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier") / "fp16.mlpackage"
    return convert_classifier(path, network, target="iOS17", precision="FLOAT16")


@pytest.fixture(scope="session")
def baked_classifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Make packages of the bad classifier that differ in their default batch size."""

    def make(default: int) -> Path:
        path = tmp_path_factory.mktemp("baked") / "baked.mlpackage"
        return convert_classifier(path, BakedClassifier(), traced=3, default=default)

    return make


@pytest.fixture(scope="session")
def save_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Convert a function of MIL variables; `inputs` are shapes of float32 tensors or MIL's own specifications."""
    from coremltools.converters.mil import Builder as mb  # noqa: N813

    def save(function: Callable[..., Any], *inputs: Any, target: str = "iOS16", **options: Any) -> Path:
        specs = [shape if hasattr(shape, "sym_shape") else mb.TensorSpec(shape=shape) for shape in inputs]
        program = mb.program(input_specs=specs, opset_version=ct.target[target])(function)
        return convert(program, tmp_path_factory.mktemp("program") / "model.mlpackage", target, **options)

    return save

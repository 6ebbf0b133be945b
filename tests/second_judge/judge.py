"""Small modules, converted to Core ML and to Core AI, and what runs them held to each other and to PyTorch."""

import copy
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import export_coreml
from export_coreml import Precision
from shared.conversion.coreai_program import convert
from shared.coreml_reference import CoreMLReference
from shared.kit.params import StageParams
from shared.network.architectures import ARCHITECTURES
from shared.network.architectures.base import Architecture
from shared.network.model import Checkpoint, ModelConfig, SequenceClassifier
from tests.core_ai_assets import run
from tests.second_judge.modules import FEATURES, MODULES, STEPS
from tests.support import EXPORT_NAMES, EXPORT_PARAMS

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

ROWS = 5  # no size that anything was traced with
TOGETHER = 20  # modules in one conversion, which costs a second whatever is in it
BOUNDS: dict[Precision, float] = {"fp32": 1e-5, "fp16": 2e-3}
"""How far two may be apart at most, in parts of the largest value."""

EVALUATOR, CORE_AI, PYTORCH = "the evaluator", "Core AI", "PyTorch"
PAIRS = ((EVALUATOR, PYTORCH), (CORE_AI, PYTORCH), (EVALUATOR, CORE_AI))

REFUSED = {"product over features": ("Core ML", "prod")}
"""Whose converter has no way to write a module down, and the operation that it names."""

Distances = tuple[float, ...]
"""Of the pairs, in parts of the largest value."""


class Together(nn.Module):
    """Several modules, whose results stand one after the other in each row: one conversion for all."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList(MODULES[name]() for name in names)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x).flatten(1) for part in self.parts], 1)


def classifier(names: Sequence[str]) -> SequenceClassifier:
    """The modules in the place of an architecture, so that the project's export takes them."""

    class Judged(Architecture):
        class Options(StageParams):
            """None."""

        def __init__(self, sizes: Any, options: Any) -> None:
            super().__init__(sizes, options)
            self.together = Together(names)

        def forward(self, sequence: Tensor, _: Tensor | None = None) -> Tensor:
            result: Tensor = self.together(sequence)
            return result

    ARCHITECTURES["judged"] = Judged
    try:
        return SequenceClassifier(
            ModelConfig(
                features=[f"x{number}" for number in range(FEATURES)],
                time_steps=STEPS,
                classes=["a", "b"],
                ragged=False,
                standardize=False,
                architecture="judged",
                options={},
            )
        ).eval()
    finally:
        del ARCHITECTURES["judged"]


def sequences() -> Tensor:
    """Values that half precision has, about half of them negative, some the same."""
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(ROWS, STEPS, FEATURES, generator=generator) * 16).round() / 16


def judge(names: Sequence[str], precision: Precision, folder: Path) -> dict[str, Distances]:
    """Convert modules both ways, run both files, and compare what they and PyTorch compute.

    Raises:
        Exception: Whatever a converter or a runtime raises.
    """
    model, x = classifier(names), sequences()
    package = folder / "modules.mlpackage"
    exported = export_coreml.export_coreml(Checkpoint(model, {}), EXPORT_NAMES, EXPORT_PARAMS, precision)
    export_coreml.save(exported, package)
    ours = CoreMLReference(package).predict({EXPORT_NAMES.input_name: x.numpy()})[EXPORT_NAMES.output_name]

    asset = folder / "modules.aimodel"
    convert(Checkpoint(model, {}), EXPORT_NAMES, precision, STEPS).save_asset(asset)
    [[apples]] = run(asset, {EXPORT_NAMES.input_name: x.numpy()})

    if precision == "fp16":  # PyTorch has the weights of both, and computes with them in full precision
        model = copy.deepcopy(model).half().float()
    with torch.inference_mode():
        parts = [part(x).flatten(1).numpy() for part in parts_of(model)]
    assert ours.shape == apples.shape == (ROWS, sum(part.shape[1] for part in parts))
    found: dict[str, Distances] = {}
    begin = 0
    for name, part in zip(names, parts, strict=True):
        end = begin + part.shape[1]
        one, two = ours[:, begin:end], apples[:, begin:end]
        found[name] = (distance(one, part), distance(two, part), distance(one, two))
        begin = end
    return found


def parts_of(model: SequenceClassifier) -> Iterable[nn.Module]:
    together = model.network.get_submodule("together")
    assert isinstance(together, Together)
    return together.parts


def distance(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest difference, in parts of the largest value; infinite where one of them is no finite number."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("inf")
    return float(np.abs(one - other).max() / np.abs(other).max())


def groups(names: Sequence[str]) -> list[Sequence[str]]:
    """All but those that one of the converters refuses, some at a time."""
    judged = [name for name in names if name not in REFUSED]
    return [judged[begin : begin + TOGETHER] for begin in range(0, len(judged), TOGETHER)]


def disagreements(name: str, precision: Precision, distances: Distances) -> list[str]:
    """Which two are further apart than they may be."""
    bound = BOUNDS[precision]
    return [
        f"{name}, {precision}: {' and '.join(pair)} are {distance:.1e} apart; allowed: {bound:g}"
        for pair, distance in zip(PAIRS, distances, strict=True)
        if not distance <= bound
    ]


def refusal(name: str) -> str:
    """What a converter says of a module that it refuses, or why it should not be in that list."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            judge([name], "fp32", Path(folder))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "converted both ways"

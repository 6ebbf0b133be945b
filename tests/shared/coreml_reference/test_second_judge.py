"""The evaluator, Apple's Core AI runtime and PyTorch agree on a sample of the modules that `make second-judge` runs."""

from pathlib import Path

import pytest

pytest.importorskip("coreai_torch", reason="coreai-torch is not installed")

from export_coreml import Precision
from tests.second_judge.judge import BOUNDS, REFUSED, disagreements, groups, judge
from tests.second_judge.modules import MODULES

EVERY = 4
"""The rest is for `make second-judge`: all take some minutes."""


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_sample_agrees(tmp_path: Path, precision: Precision) -> None:
    sample = [name for group in groups(list(MODULES)) for name in group][::EVERY]
    found = judge(sample, precision, tmp_path)
    assert list(found) == sample
    assert [problem for name in sample for problem in disagreements(name, precision, found[name])] == []


def test_what_differs_is_told() -> None:
    assert disagreements("linear", "fp32", (1e-7, 1e-7, 1e-7)) == []
    [problem] = disagreements("linear", "fp32", (1e-7, 2e-5, 1e-7))
    assert problem == "linear, fp32: Core AI and PyTorch are 2.0e-05 apart; allowed: 1e-05"
    assert len(disagreements("linear", "fp16", (float("nan"), 1e-3, float("inf")))) == 2


def test_the_modules_are_many() -> None:
    assert set(REFUSED) <= set(MODULES)
    assert len(MODULES) - len(REFUSED) >= 100

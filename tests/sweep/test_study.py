"""What each sampler asks for next: by its seed and the trials before, however often the command was begun again."""

import math
from pathlib import Path
from statistics import median
from typing import Any

from commands.sweeps.space import Settings, Space
from tests.sweep.conftest import NEEDS_RAY

import pytest

pytestmark = NEEDS_RAY

PARAMETERS: dict[str, Any] = {
    "train.learning_rate": {"floats": [1e-4, 1.0], "log": True},
    "train.epochs": {"ints": [10, 50], "step": 10},
    "architecture.name": {"choices": ["lstm", "mlp"]},
    "architecture.lstm.layers": {"ints": [1, 4], "when": {"architecture.name": "lstm"}},
}
ACCURACY = {"metric": "evaluate.onnx.int8.accuracy", "better": "higher"}
SIZE = {"metric": "size.onnx.int8.bytes", "better": "lower"}


def make_space(sampler: str, seed: int = 0, trials: int = 40) -> Space:
    objectives = [ACCURACY, SIZE] if sampler == "nsga2" else [ACCURACY]
    content = {"sampler": sampler, "trials": trials, "seed": seed, "parameters": PARAMETERS, "objectives": objectives}
    return Space.model_validate(content | ({"population": 8} if sampler == "nsga2" else {}))


def figures(settings: Settings, space: Space) -> list[float]:
    """A toy: best at a learning rate of 0.01; the more layers, the larger."""
    accuracy = 1 - 0.1 * distance(settings)
    return [accuracy, 1000.0 * settings.get("architecture.lstm.layers", 1)][: len(space.objectives)]


def distance(settings: Settings) -> float:
    """How far a learning rate is from the best one, in powers of ten."""
    return abs(math.log10(settings["train.learning_rate"]) + 2)


def ask(space: Space, folder: Path, number: int) -> list[Settings]:
    """Open the study, run some trials, close it."""
    from commands.sweeps.study import Study

    folder.mkdir(exist_ok=True)
    study = Study(space, "study", folder, space.trials)
    asked: list[Settings] = []
    while len(asked) < number and (trial := study.ask()):
        study.complete(trial.number, figures(trial.settings, space), 0)
        asked.append(trial.settings)
    return asked


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_a_seed_repeats_the_same_trials_also_in_pieces(tmp_path: Path, sampler: str) -> None:
    space = make_space(sampler)
    whole = ask(space, tmp_path / "whole", 40)
    assert len(whole) == 40
    pieces = tmp_path / "pieces"
    assert [*ask(space, pieces, 3), *ask(space, pieces, 14), *ask(space, pieces, 40)] == whole
    assert ask(space, pieces, 1) == [], "40 is the end"
    other = ask(make_space(sampler, seed=1), tmp_path / "other", 40)
    assert not [settings for settings in other if settings in whole]


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_every_value_is_one_that_the_space_has(tmp_path: Path, sampler: str) -> None:
    asked = ask(make_space(sampler), tmp_path, 40)
    for settings in asked:
        assert 1e-4 <= settings["train.learning_rate"] <= 1
        assert settings["train.epochs"] in range(10, 51, 10)
        assert ("architecture.lstm.layers" in settings) == (settings["architecture.name"] == "lstm")
        assert settings.get("architecture.lstm.layers", 1) in range(1, 5)
    assert {settings["architecture.name"] for settings in asked} == {"lstm", "mlp"}


def test_random_values_of_a_log_scale_are_as_dense_in_each_power_of_ten(tmp_path: Path) -> None:
    rates = [settings["train.learning_rate"] for settings in ask(make_space("random", trials=200), tmp_path, 200)]
    counts = [sum(10**power <= rate < 10 ** (power + 1) for rate in rates) for power in range(-4, 0)]
    assert sum(counts) == 200
    assert min(counts) > 30  # of 50: on a plain scale the first power of ten would have none


def test_tpe_comes_near_the_best_value_once_it_has_seen_some(tmp_path: Path) -> None:
    first, later = slice(0, 10), slice(20, 40)
    tpe = [distance(settings) for settings in ask(make_space("tpe"), tmp_path / "tpe", 40)]
    random = [distance(settings) for settings in ask(make_space("random"), tmp_path / "random", 40)]
    assert median(tpe[later]) < 0.5 * median(tpe[first])
    assert median(tpe[later]) < 0.5 * median(random[later])


def test_an_asked_trial_that_was_not_told_is_taken_up_as_it_was(tmp_path: Path) -> None:
    from commands.sweeps.study import Study

    space = make_space("tpe")
    ask(space, tmp_path, 12)
    asked = Study(space, "study", tmp_path, space.trials).ask()
    again = Study(space, "study", tmp_path, space.trials)
    assert again.unfinished() == [asked]
    assert again.begun() == 13

"""What a search space may say, and what a misspelt one is told before anything runs."""

import json
from pathlib import Path
from typing import Any

from commands.sweep import default_stages, to_hydra
from commands.sweeps.pipeline import Pipeline
from commands.sweeps.schedule import Schedule
from commands.sweeps.space import read_space
from shared.kit.stage import StageError
from tests.support import ROOT
from tests.sweep.conftest import ACCURACY, GRID, LEARNING_RATES, Toy

import pytest

SPACES = sorted((ROOT / "sweeps").glob("*.yaml"))


@pytest.fixture
def refusal(tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a space that is the grid but for some keys is told."""
    monkeypatch.chdir(ROOT)

    def read(**changes: Any) -> str:
        file = tmp_path / "space.yaml"
        file.write_text(json.dumps({key: value for key, value in (GRID | changes).items() if value is not None}))
        with pytest.raises(StageError) as error:
            read_space(file, pipeline)
        message = str(error.value)
        assert message.startswith(f"{file}: ")
        assert "\n" not in message
        return message.removeprefix(f"{file}: ")

    return read


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_the_spaces_of_the_project_are_valid(file: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    space = read_space(file, pipeline)
    assert default_stages(space, pipeline)


def test_a_misspelt_parameter_is_told_the_right_name(refusal: Any) -> None:
    message = refusal(parameters={"train.learning_rat": {"choices": [0.1]}})
    assert message.startswith("unknown key train.learning_rat (did you mean 'learning_rate'?); allowed: standardize")


def test_a_misspelt_section_is_told_the_right_name(refusal: Any) -> None:
    message = refusal(parameters={"trian.learning_rate": {"choices": [0.1]}})
    assert message.startswith("unknown key trian.learning_rate: params.yaml has no trian (did you mean 'train'?)")


def test_a_value_that_its_stage_refuses_is_refused(refusal: Any) -> None:
    assert refusal(parameters={"train.optimizer": {"choices": ["adma"]}}).startswith("train.optimizer = 'adma': ")
    assert refusal(parameters={"train.epochs": {"ints": [0, 10], "step": 5}}).startswith("train.epochs = 0: ")
    assert refusal(fixed={"train.warmup": 1.5}).startswith("train.warmup = 1.5: ")


def test_every_point_of_a_grid_is_checked_not_its_values_alone(refusal: Any) -> None:
    parameters = {"train.optimizer": {"choices": ["sgd", "adam"]}, "train.momentum": {"choices": [0.0, 0.9]}}
    assert refusal(parameters=parameters).startswith("train.momentum = 0.9: should be 0 with optimizer adam")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samplr": "grid"}, "unknown key samplr (did you mean 'sampler'?)"),
        ({"objectives": None}, "key objectives is missing"),
        (
            {"parameters": {"train.epochs": {"chioces": [1]}}},
            "unknown key parameters.train.epochs.chioces (did",
        ),
        ({"parameters": {"train.epochs": {"ints": [9, 1]}}}, "parameters.train.epochs = "),
        ({"parameters": {"train.epochs": {"ints": [1, 9]}}}, "parameters.train.epochs: a grid needs choices or a step"),
        (
            {"objectives": [{"metric": "evaluat.x", "better": "higher"}]},
            "evaluat.x: no stage writes metrics/evaluat",
        ),
        ({"fixed": {"train.learning_rate": 0.1}}, "train.learning_rate is both searched and fixed"),
        ({"stages": ["evalute"]}, "stages: no stage 'evalute' (did you mean 'evaluate'?)"),
        ({"remove": ["train.epoch"]}, "remove: there is no train.epoch (did you mean 'epochs'?)"),
        ({"sampler": "random"}, "trials is missing: sampler random has no end of its own"),
        ({"early_stop": {"metric": "train.validation_accuracy", "better": "higher"}}, "early_stop = "),
        ({"prune": {"trails": 3}}, "unknown key prune.trails"),
        ({"prune": {"trials": 0}}, "prune.trials = 0: input should be greater than 0"),
    ],
)
def test_whatever_is_wrong_is_one_line(refusal: Any, changes: dict[str, Any], message: str) -> None:
    told = refusal(**changes)
    assert message.removeprefix("parameters.train.epochs = ") in told


def test_a_parameter_is_searched_only_where_it_has_a_meaning(
    tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    parameters = {
        "architecture.name": {"choices": ["lstm", "mlp"]},
        "architecture.lstm.layers": {"ints": [1, 2], "step": 1, "when": {"architecture.name": "lstm"}},
    }
    file = tmp_path / "space.yaml"
    file.write_text(json.dumps(GRID | {"parameters": parameters}))
    assert list(read_space(file, pipeline).grid()) == [
        {"architecture.name": "lstm", "architecture.lstm.layers": 1},
        {"architecture.name": "lstm", "architecture.lstm.layers": 2},
        {"architecture.name": "mlp"},
    ]


def test_a_stage_runs_once_for_all_trials_unless_it_depends_on_what_is_searched(pipeline: Pipeline) -> None:
    stages = ["verify"]
    assert {"generate", "prepare"}.isdisjoint(pipeline.touched(stages, ["train.learning_rate"]))
    assert pipeline.touched(stages, ["verify.largest_error"]) == {"verify"}
    assert "compress_onnx@int8" in pipeline.touched(stages, ["compress_onnx.minimum_share"])
    assert "report" not in pipeline.work(stages, {})


def test_two_trials_that_train_alike_do_not_train_at_once(pipeline: Pipeline) -> None:
    schedule = Schedule(pipeline, ["verify"], shared=True, done=["list_variants"])
    first = {"train.epochs": 5, "verify.recall_loss": 0.05}
    schedule.start("first", first)
    for stage in ("generate", "prepare", "train"):
        schedule.reached("first", stage)
        assert not schedule.may_start({"train.epochs": 5, "verify.recall_loss": 0.07})
    # Data are there, and this one trains something else.
    assert schedule.may_start({"train.epochs": 6, "verify.recall_loss": 0.05})
    schedule.end("first", published=True)
    assert schedule.may_start({"train.epochs": 5, "verify.recall_loss": 0.07})


@pytest.mark.parametrize(
    "value", [0.001, 1e-05, 3, True, None, "adam", "null", "a b", "it's", [1, "x"], {"a": 1.5}, [], "1e-3", "yes"]
)
def test_a_value_arrives_in_params_yaml_as_it_is(tmp_path: Path, value: Any) -> None:
    from dvc.utils.hydra import apply_overrides
    from ruamel.yaml import YAML

    file = tmp_path / "params.yaml"
    file.write_text("section: {key: 7}\n")
    apply_overrides(str(file), [f"section.key={to_hydra(value)}"])
    found = YAML(typ="safe").load(file)["section"]["key"]
    assert found == value
    assert type(found) is type(value)


def test_a_misspelt_space_fails_before_anything_runs(toy: Toy) -> None:
    space = toy.space(**GRID | {"parameters": {"train.learning_rat": {"choices": [0.1]}}})
    output = toy.sweep(space, code=1)
    assert output == (
        f"sweep: error: {space}: unknown key train.learning_rat (did you mean 'learning_rate'?); "
        "allowed: learning_rate, layers, seconds\n"
    )
    assert not toy.ran()


def test_a_dry_run_tells_what_would_run_and_runs_nothing(toy: Toy) -> None:
    parameters = LEARNING_RATES | {"verify.limit": {"choices": [0.1, 0.2, 0.3]}}
    space = toy.space(sampler="grid", parameters=parameters, objectives=ACCURACY, fit=["onnx.int8"])
    output = toy.sweep(space, "--dry-run")
    assert "sampler grid: 6 points" in output
    assert "once: generate\n" in output
    assert "2 times: train\n" in output
    assert "6 times: verify\n" in output
    assert "-S 'train.learning_rate=0.01' -S 'verify.limit=0.1' evaluate verify\n" in output
    assert not toy.ran()
    assert not toy.experiments()


def test_changes_that_are_not_committed_would_be_no_part_of_a_trial(toy: Toy) -> None:
    space = toy.space(**GRID)
    toy.set("generate.rows", 11)
    assert toy.sweep(space, code=1).startswith("sweep: error: params.yaml is changed since the last commit")

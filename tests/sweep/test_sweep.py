"""The command on one machine: what it runs, publishes and tells, and what an end at any moment leaves behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.sweep.conftest import ACCURACY, GRID, LEARNING_RATES, NEEDS_RAY, Keep, Toy, trials_of, wait_for

import psutil

pytestmark = NEEDS_RAY

VERDICTS = {"train.learning_rate": {"choices": [0.01, 0.03]}, "verify.limit": {"choices": [0.1, 0.97]}}


def trial_processes(toy: Toy) -> list[psutil.Process]:
    """The processes of trials in this project's clones, without the child that each has to end its group."""
    found = {}
    for process in psutil.process_iter(["cmdline", "cwd", "ppid"]):
        words = process.info["cmdline"] or []
        if "commands/sweeps/trial.py" in words and str(process.info["cwd"]).startswith(str(toy.folder)):
            found[process.pid] = process
    return [process for process in found.values() if process.info["ppid"] not in found]


def test_a_grid_ends_in_experiments_and_nothing_is_computed_twice(toy: Toy) -> None:
    space = toy.space(sampler="grid", parameters=VERDICTS, objectives=ACCURACY, fit=["onnx.int8"])
    output = toy.sweep(space, "--jobs", "2")
    assert sorted(trials_of(output).values()) == ["published"] * 4
    # 0.03 is at 0.952: not fit where the limit is 0.97.
    assert output.count("not fit to ship: onnx.int8") == 1
    assert "4 trials: 4 complete" in output
    experiments = toy.experiments()
    assert set(experiments) == set(trials_of(output))
    accuracies = [toy.figure(each, "evaluate")["onnx"]["int8"]["accuracy"] for each in experiments.values()]
    assert sorted(round(accuracy, 3) for accuracy in accuracies) == [0.952, 0.952, 1, 1]
    # The data are those of the commit, two nets are trained, each one judged twice.
    assert toy.ran() == {"train 0.01 2": 1, "train 0.03 2": 1, "evaluate": 2, "verify": 4}

    again = toy.sweep(space, "--jobs", "2")
    assert trials_of(again) == {}
    assert "4 trials: 4 complete" in again
    # Another person has the experiments and not the journal.
    (toy.folder / "sweeps" / "space" / "journal.log").unlink()
    assert sorted(trials_of(toy.sweep(space, "--jobs", "2")).values()) == ["published"] * 4
    assert sum(toy.ran().values()) == 8
    assert toy.experiments() == experiments

    [best] = {line.split()[1].rstrip(":") for line in again.splitlines() if line.startswith("best: ")}
    toy.dvc("exp", "apply", best)
    assert json.loads((toy.folder / "models" / "model.json").read_text())["accuracy"] == 1
    assert f"dvc exp apply {best}" in (toy.folder / "sweeps" / "space" / "index.html").read_text()


def test_a_failing_trial_is_told_with_its_stage_and_not_tried_again(toy: Toy) -> None:
    parameters = {"train.learning_rate": {"choices": [0.01, 100.0]}}
    space = toy.space(sampler="grid", parameters=parameters, objectives=ACCURACY)
    output = toy.sweep(space, "--jobs", "1")
    assert sorted(trials_of(output).values()) == ["failed", "published"]
    assert "  failed  train: the loss is nan with learning_rate 100" in output
    assert "2 trials: 1 complete, 1 failed" in output
    page = (toy.folder / "sweeps" / "space" / "index.html").read_text()
    assert "the loss is nan with learning_rate 100" in page
    ran = toy.ran()
    assert trials_of(toy.sweep(space)) == {}
    assert toy.ran() == ran


def test_a_figure_that_no_trial_has_is_told(toy: Toy) -> None:
    space = toy.space(**GRID | {"objectives": [{"metric": "evaluate.onnx.int9.accuracy", "better": "higher"}]})
    output = toy.sweep(space, "--jobs", "1", "--trials", "1", code=1)
    assert "failed  evaluate.onnx.int9.accuracy: evaluate.onnx has no int9; it has int8" in output


def test_samplers_that_learn_go_on_where_they_were(toy: Toy) -> None:
    parameters = {"train.learning_rate": {"floats": [1e-4, 1], "log": True}, "train.layers": {"ints": [1, 4]}}
    objectives = [*ACCURACY, {"metric": "evaluate.onnx.int8.bytes", "better": "lower"}]
    space = toy.space(
        sampler="nsga2", trials=3, population=2, parameters=parameters, objectives=objectives, fit=["onnx.int8"]
    )
    first = toy.sweep(space, "--jobs", "2")
    assert "3 trials: 3 complete" in first
    more = toy.sweep(space, "--jobs", "2", "--trials", "4")
    assert "4 trials: 4 complete" in more
    assert len(trials_of(more)) == 1


def test_trials_that_cannot_win_run_nothing_after_train(toy: Toy) -> None:
    parameters = {"train.learning_rate": {"choices": [0.01, 1.0, 3.0]}}
    early_stop = {"metric": "train.validation_accuracy", "better": "higher", "within": 0.1}
    space = toy.space(sampler="grid", parameters=parameters, objectives=ACCURACY, early_stop=early_stop)
    output = toy.sweep(space, "--jobs", "1")
    assert sorted(trials_of(output).values()) == ["published", "stopped", "stopped"]
    assert toy.ran()["evaluate"] == 1
    assert sum(name.endswith("-stopped") for name in toy.experiments()) == 2


def test_a_training_that_falls_behind_those_before_it_is_ended_and_not_begun_again(toy: Toy) -> None:
    toy.set("train.seconds", 5.0)
    toy.commit()
    parameters = {"train.learning_rate": {"choices": [0.01, 0.02, 3.0, 1e-6, 0.011]}}
    space = toy.space(
        sampler="grid", parameters=parameters, objectives=ACCURACY, prune={"trials": 2, "epochs": 3}, trials=4
    )
    output = toy.sweep(space, "--jobs", "1")
    assert list(trials_of(output).values()) == ["published", "published", "stopped", "stopped"]
    assert output.count("stopped  ended in training: validation_loss ") == 2
    assert "4 trials: 2 complete, 2 stopped" in output
    ran = toy.ran()
    assert ran["evaluate"] == 2
    assert ran["train 3 2"] == ran["train 1e-06 2"] == 1

    # Another person, who has the experiments alone, is held to them too.
    (toy.folder / "sweeps" / "space" / "journal.log").unlink()
    output = toy.sweep(space, "--jobs", "1", "--trials", "5")
    assert sorted(trials_of(output).values()) == ["published"] * 3 + ["stopped"] * 2
    assert sum(toy.ran().values()) == sum(ran.values()) + 2


def test_ctrl_c_leaves_nothing_half_published_and_the_next_run_goes_on(toy: Toy, processes: Keep) -> None:
    """As a terminal sends it: to every process of the foreground at once."""
    toy.hold.touch()
    space = toy.space(**GRID)
    process = processes(toy.start(space, "--jobs", "1"))
    wait_for(lambda: any("train" in stage for stage in toy.ran()), process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert not trial_processes(toy)
    assert toy.experiments() == {}
    toy.hold.unlink()
    output = toy.sweep(space, "--jobs", "2")
    assert sorted(trials_of(output).values()) == ["published"] * 2
    assert len(toy.experiments()) == 2


def test_a_trial_whose_process_is_killed_begins_again(toy: Toy, processes: Keep) -> None:
    toy.hold.touch()
    process = processes(toy.start(toy.space(**GRID), "--jobs", "1"))
    wait_for(lambda: any("train" in stage for stage in toy.ran()), process)
    [trial] = trial_processes(toy)
    trial.kill()
    toy.hold.unlink()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert sorted(trials_of(output).values()) == ["published"] * 2
    assert sum(count for stage, count in toy.ran().items() if "train" in stage) == 3


def test_stages_of_a_killed_trial_end_when_nobody_is_left_to_end_them(
    toy: Toy, tmp_path: Path, processes: Keep
) -> None:
    """Ray kills a trial's process when it ends a worker, and leaves what that has started."""
    toy.hold.touch()
    toy.git("clone", "--quiet", str(toy.folder), str(tmp_path / "clone"))
    process = processes(
        subprocess.Popen(
            [sys.executable, "commands/sweeps/trial.py", "--set", "train.layers=3", "--end-with-stdin"],
            cwd=tmp_path / "clone",
            env={**os.environ, **toy.environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    )
    wait_for(lambda: any("train" in stage for stage in toy.ran()), process)
    stages = psutil.Process(process.pid).children(recursive=True)
    assert any("stages/train.py" in stage.cmdline() for stage in stages)
    process.kill()
    process.wait()
    wait_for(lambda: not any(stage.is_running() and stage.status() != psutil.STATUS_ZOMBIE for stage in stages))


def test_a_killed_driver_takes_its_trials_along_and_the_next_one_goes_on(toy: Toy, processes: Keep) -> None:
    toy.set("train.seconds", 3.0)
    toy.commit()
    space = toy.space(**GRID)
    process = processes(toy.start(space, "--jobs", "1"))
    wait_for(lambda: len(toy.experiments()) == 1 and len(trial_processes(toy)) == 1, process)
    process.kill()
    process.wait()
    wait_for(lambda: not trial_processes(toy))
    [(first, commit)] = toy.experiments().items()
    output = toy.sweep(space, "--jobs", "1")
    assert "2 trials: 2 complete" in output
    assert len(toy.experiments()) == 2
    assert toy.experiments()[first] == commit
    assert toy.ran()["train 0.01 2"] == 1


def test_two_drivers_do_not_work_on_one_sweep(toy: Toy, processes: Keep) -> None:
    toy.set("train.seconds", 3.0)
    toy.commit()
    space = toy.space(**GRID)
    process = processes(toy.start(space, "--jobs", "1"))
    wait_for(lambda: any("train" in stage for stage in toy.ran()), process)
    assert "another sweep.py works on it" in toy.sweep(space, code=1)


def test_a_file_of_an_earlier_trial_is_no_part_of_a_later_one(toy: Toy, tmp_path: Path) -> None:
    """Clones are used again, and outputs are files that Git ignores."""
    space = toy.space(**GRID)
    toy.sweep(space, "--jobs", "1", "--work", str(tmp_path / "work"))
    [clone] = (tmp_path / "work").glob("clone-?")
    (clone / "models" / "left-over.json").write_text("{}")
    toy.git("commit", "--quiet", "--allow-empty", "--message", "another revision")
    toy.sweep(toy.space(**GRID | {"parameters": LEARNING_RATES}), "--jobs", "1", "--work", str(tmp_path / "work"))
    assert sorted(path.name for path in (clone / "models").iterdir()) == ["model.json"]

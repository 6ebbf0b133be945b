"""One trial by itself, as a job of SLURM or Kubernetes runs it: in its own clone, published to Git and DVC remotes."""

import json
import shlex
import stat
import subprocess
from pathlib import Path

from tests.sweep.conftest import Toy

import pytest


@pytest.fixture
def clone(toy: Toy, tmp_path: Path) -> Path:
    """A clone of the project with its cache, and a bare repository as its remote."""
    remote = tmp_path / "remote.git"
    toy.git("clone", "--quiet", "--bare", str(toy.folder), str(remote))
    folder = tmp_path / "clone"
    toy.git("clone", "--quiet", f"file://{remote}", str(folder))
    (folder / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {toy.folder / '.dvc' / 'cache'}\n")
    return folder


def test_a_trial_is_published_and_run_once(toy: Toy, clone: Path) -> None:
    first = toy.trial("--set", "train.learning_rate=0.01", folder=clone)
    assert ": published" in first.splitlines()[-1]
    ran = toy.ran()
    assert ran["train 0.01 2"] == 1
    # Another clone asks the remote.
    toy.git("-C", str(clone), "reset", "--hard", "--quiet")
    assert toy.trial("--set", "train.learning_rate=0.01", folder=clone).count("\n") == 1
    assert toy.ran() == ran

    # An ordinary experiment: DVC's own command writes the same bytes.
    toy.dvc("exp", "run", "--name", "ordinary", "--set-param", "train.learning_rate=0.01", env=toy.environment())
    ordinary = toy.experiments()["ordinary"]
    files, lock = toy.git("ls-tree", "-r", ordinary), toy.git("show", f"{ordinary}:dvc.lock")
    toy.git("checkout", "--quiet", "--force", ".")
    toy.dvc("exp", "remove", "ordinary")

    toy.git("remote", "add", "origin", str(clone.with_name("remote.git")))
    toy.dvc("exp", "pull", "origin", first.split(":")[-2].split()[-1], "--no-cache")
    [(name, commit)] = toy.experiments().items()
    assert toy.git("show", f"{commit}:dvc.lock") == lock
    assert toy.git("ls-tree", "-r", commit) == files
    assert toy.figure(commit, "evaluate")["onnx"]["int8"]["accuracy"] == 1.0
    toy.dvc("exp", "apply", name)
    assert json.loads((toy.folder / "models" / "model.json").read_text())["accuracy"] == 1.0


def test_figures_of_stages_that_did_not_run_are_no_part_of_an_experiment(toy: Toy, clone: Path) -> None:
    assert toy.figure("HEAD", "report")
    output = toy.trial("--set", "train.learning_rate=0.02", "--stages", "evaluate", folder=clone)
    name = output.split(":")[-2].split()[-1]
    toy.dvc("exp", "pull", str(clone.with_name("remote.git")), name, "--no-cache")
    listed = toy.git("ls-tree", "-r", "--name-only", toy.experiments()[name], "metrics").split()
    assert listed == ["metrics/evaluate.json", "metrics/loss.csv", "metrics/train.json"]


def test_a_failing_trial_tells_its_stage_and_what_the_stage_said(toy: Toy, clone: Path) -> None:
    output = toy.trial("--set", "train.learning_rate=100", code=1, folder=clone)
    assert output.splitlines()[-1].endswith("failed: stage train: the loss is nan with learning_rate 100")
    assert not toy.git("-C", str(clone), "ls-remote", "origin", "refs/exps/*")


def test_a_trial_that_cannot_win_stops_after_train(toy: Toy, clone: Path) -> None:
    arguments = ("--set", "train.learning_rate=3", "--stages", "evaluate", "--stop-unless")
    output = toy.trial(*arguments, "train.validation_accuracy>=0.9", folder=clone)
    assert output.splitlines()[-1].endswith(": stopped")
    assert "evaluate" not in toy.ran()
    [line] = toy.git("-C", str(clone), "ls-remote", "origin", "refs/exps/*").splitlines()
    assert line.endswith("-stopped")
    toy.git("-C", str(clone), "fetch", "--quiet", "origin", line.split()[1])
    listed = toy.git("-C", str(clone), "ls-tree", "-r", "--name-only", line.split()[0], "metrics").split()
    assert listed == ["metrics/loss.csv", "metrics/train.json"]

    toy.git("-C", str(clone), "reset", "--hard", "--quiet")
    output = toy.trial("--set", "train.learning_rate=0.03", *arguments[2:], "loss.validation_loss<=0.5", folder=clone)
    assert output.splitlines()[-1].endswith(": published")
    assert toy.ran()["train 0.03 2"] == 1, "what ran before the decision is not run again"


def test_a_training_that_falls_behind_is_ended_and_its_losses_are_published(toy: Toy, clone: Path) -> None:
    remote, storage = clone.with_name("remote.git"), clone.with_name("storage")
    with (clone / ".dvc" / "config.local").open("a") as file:
        file.write(f"['remote \"storage\"']\n    url = {storage}\n[core]\n    remote = storage\n")
    settings = (
        "--set",
        "train.learning_rate=1.0",
        "--set",
        "train.seconds=20.0",
        "--stages",
        "evaluate",
        "--push-data",
    )
    # It ends at a loss of 0.2, in ten equal steps from 1: after two of them it is at 0.84.
    output = toy.trial(*settings, "--stop-above", "1:0.99,2:0.5", folder=clone)
    why = "ended in training: validation_loss 0.84 after 2 epochs, 0.5 is the others' median"
    assert output.splitlines()[-1].endswith(f": stopped: {why}")
    assert toy.ran() == {"train 1 2": 1}

    toy.git("-C", str(clone), "reset", "--hard", "--quiet")
    assert toy.trial(*settings, "--stop-above", "1:0.99", folder=clone).count("\n") == 1, (
        "another clone asks the remote"
    )
    toy.dvc("exp", "pull", str(remote), "--rev", "HEAD", "--no-cache")
    [(name, commit)] = toy.experiments().items()
    assert name.endswith("-stopped")
    assert toy.git("ls-tree", "-r", "--name-only", commit, "metrics").split() == ["metrics/loss.csv"]
    epochs = toy.git("show", f"{commit}:metrics/loss.csv").splitlines()[1:]
    assert 2 <= len(epochs) < 10
    [shown] = json.loads(toy.dvc("exp", "show", "--json"))[1]["experiments"]
    assert shown["revs"][0]["data"]["params"]["params.yaml"]["data"]["train"]["learning_rate"] == 1.0

    # Whoever wants it after all runs it to its end.
    toy.dvc("exp", "apply", name)
    toy.set("train.seconds", 0.0)
    toy.dvc("repro", "--quiet", "train", env={"RUN_LOG": str(toy.log)})
    assert json.loads((toy.folder / "metrics" / "train.json").read_text()) == {"validation_accuracy": 0.8}


def test_a_training_that_keeps_up_goes_on(toy: Toy, clone: Path) -> None:
    arguments = ("--set", "train.learning_rate=0.02", "--set", "train.seconds=2.0", "--stages", "evaluate")
    output = toy.trial(*arguments, "--stop-above", "1:0.99,2:0.9,10:0.2", folder=clone)
    assert output.splitlines()[-1].endswith(": published")
    assert toy.ran() == {"train 0.02 2": 1, "evaluate": 1}


def test_a_stage_that_fails_by_itself_is_not_taken_for_one_that_was_ended(toy: Toy, clone: Path) -> None:
    output = toy.trial("--set", "train.learning_rate=100", "--stop-above", "1:0.9", code=1, folder=clone)
    assert output.splitlines()[-1].endswith("failed: stage train: the loss is nan with learning_rate 100")


def test_a_remote_that_is_down_keeps_the_finished_trial(toy: Toy, clone: Path) -> None:
    remote = clone.with_name("remote.git")
    remote.rename(remote.with_name("away"))
    output = toy.trial("--set", "train.learning_rate=0.01", code=2, folder=clone)
    assert "unpublished: git ls-remote: " in output.splitlines()[-1]
    ran = toy.ran()
    remote.with_name("away").rename(remote)
    toy.git("-C", str(clone), "reset", "--hard", "--quiet")
    assert ": published" in toy.trial("--set", "train.learning_rate=0.01", folder=clone)
    assert toy.ran() == ran


def test_a_remote_that_refuses_says_why(toy: Toy, clone: Path) -> None:
    hook = clone.with_name("remote.git") / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'the disk quota is exceeded' >&2\nexit 1\n")
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    output = toy.trial("--set", "train.learning_rate=0.01", code=2, folder=clone)
    assert "remote: the disk quota is exceeded" in output.splitlines()[-1]


def test_data_that_cannot_be_pushed_leave_no_reference(toy: Toy, clone: Path) -> None:
    storage = clone.with_name("storage")
    storage.write_text("a file, where the remote's folder should be")
    config = f"['remote \"storage\"']\n    url = {storage}\n[core]\n    remote = storage\n"
    with (clone / ".dvc" / "config.local").open("a") as file:
        file.write(config)
    arguments = ("--set", "train.learning_rate=0.01", "--push-data")
    output = toy.trial(*arguments, code=2, folder=clone)
    assert "unpublished: dvc push: " in output.splitlines()[-1]
    assert not toy.git("-C", str(clone), "ls-remote", "origin", "refs/exps/*")

    storage.unlink()
    ran = toy.ran()
    toy.git("-C", str(clone), "reset", "--hard", "--quiet")
    assert ": published" in toy.trial(*arguments, folder=clone)
    assert toy.ran() == ran


def test_a_full_disk_at_the_remote_keeps_the_finished_trial(toy: Toy, clone: Path) -> None:
    storage = clone.with_name("storage")
    storage.mkdir()
    with (clone / ".dvc" / "config.local").open("a") as file:
        file.write(f"['remote \"storage\"']\n    url = {storage}\n[core]\n    remote = storage\n")
    # A file system of two pages, which only this command sees.
    full = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    full += [f'mount -t tmpfs -o size=8k tmpfs {shlex.quote(str(storage))} && exec "$@"', "sh"]
    if subprocess.run([*full, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system in a namespace")
    arguments = ("--set", "train.learning_rate=0.01", "--push-data")
    output = toy.trial(*arguments, code=2, folder=clone, within=full)
    assert "unpublished: dvc push: " in output.splitlines()[-1]
    assert "No space left on device" in output
    assert not toy.git("-C", str(clone), "ls-remote", "origin", "refs/exps/*")
    ran = toy.ran()
    toy.git("-C", str(clone), "reset", "--hard", "--quiet")
    assert ": published" in toy.trial(*arguments, folder=clone)
    assert toy.ran() == ran


def test_of_two_that_publish_the_same_trial_the_first_one_stays(toy: Toy, clone: Path) -> None:
    """`dvc exp push` exits with 0 on a reference that has gone another way."""
    other = clone.with_name("other")
    toy.git("clone", "--quiet", str(clone.with_name("remote.git")), str(other))
    outcomes = []
    for folder in (clone, other):
        file = folder.with_suffix(".json")
        # The second does not find the first's experiment before it runs: as if both had begun at once.
        reference = toy.git("-C", str(clone), "ls-remote", "origin", "refs/exps/*").split()
        if reference:
            toy.git("-C", str(clone.with_name("remote.git")), "update-ref", "-d", reference[1])
            toy.trial("--set", "train.learning_rate=0.01", "--publish", str(folder), folder=folder)
            toy.git("-C", str(clone.with_name("remote.git")), "update-ref", reference[1], reference[0])
            toy.git("-C", str(folder), "reset", "--hard", "--quiet")
        toy.trial("--set", "train.learning_rate=0.01", "--outcome", str(file), folder=folder)
        outcomes.append(json.loads(file.read_text()))
    assert outcomes[0]["commit"] == outcomes[1]["commit"]


def test_a_clone_that_was_changed_is_refused(toy: Toy, clone: Path) -> None:
    (clone / "params.yaml").write_text("generate: {rows: 11}\n")
    output = toy.trial(code=1, folder=clone)
    assert output.endswith("params.yaml is changed; a trial needs a clean clone\n")

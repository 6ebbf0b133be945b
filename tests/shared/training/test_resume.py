"""Training that was killed goes on where it was, and ends in the bytes of a run that was not."""

import hashlib
import io
import json
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import train
from shared.data.sequences import Prepared
from shared.kit.params import read_params
from shared.network.architectures import ArchitectureParams
from shared.network.model import load_checkpoint
from shared.training import batches
from shared.training.devices import ALONE, Processes
from shared.training.resume import ResumeFile, unpack
from tests.support import ROOT, Project, Workspace, clean_environment, set_params

import numpy as np
import pandas as pd
import pytest
import torch

OUTPUTS = ("classifier.pt", "train.json", "loss.csv")
STATE = Path("models/pytorch/.classifier.resume")

RECIPE = {
    "architecture.lstm.hidden_size": 8,
    "architecture.lstm.layers": 2,
    "architecture.lstm.dropout": 0.3,
    "train.epochs": 60,
    "train.batch_size": 24,
    "train.optimizer": "adamw",
    "train.weight_decay": 0.01,
    "train.learning_rate": 0.02,
    "train.schedule": "cosine",
    "train.warmup": 0.1,
    "train.keep": "best",
}
"""Something of everything that a state has to hold, in 540 steps of about 2 ms."""

# Imports torch once; every run is one or more processes of its own, which can be killed.
RUNS = """
import os, sys
import train
from shared.training import batches
from shared.kit.stage import run
print("ready", flush=True)
for line in sys.stdin:
    folder, count, port, buffer = line.split()
    batches.BUFFER_BYTES = int(buffer)
    pids = []
    for rank in range(int(count)):
        pids.append(os.fork())
        if not pids[-1]:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": count}
            os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
            sys.argv = ["train.py", "data/prepared", *(f"{folder}/{name}" for name in %r)]
            run(train.main)
            os._exit(0)
    print(*pids, flush=True)
    print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids), flush=True)
"""


@dataclass
class Runs:
    """Starts trainings in processes of their own, one after another."""

    folder: Path
    buffer_bytes: int = batches.BUFFER_BYTES

    def __post_init__(self) -> None:
        self.notes = self.folder / "notes"
        with self.notes.open("w") as notes:
            self.parent = subprocess.Popen(
                [sys.executable, "-c", RUNS % (OUTPUTS,)],
                cwd=self.folder, env=clean_environment() | {"PYTHONPATH": str(ROOT / "stages")},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=notes, text=True,
            )  # fmt: skip
        assert self._says() == "ready"

    def _says(self) -> str:
        assert self.parent.stdout
        return self.parent.stdout.readline().strip()

    def start(self, outputs: str, processes: int = 1) -> list[int]:
        """Start a training that writes into the folder `outputs`; return the ids of its processes."""
        assert self.parent.stdin
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.parent.stdin.write(f"{outputs} {processes} {port} {self.buffer_bytes}\n")
        self.parent.stdin.flush()
        return [int(pid) for pid in self._says().split()]

    def end(self) -> set[int]:
        """Wait for it; return the exit codes of its processes, below zero if a signal ended one."""
        return {int(code) for code in self._says().split()}

    def finish(self, outputs: str, processes: int = 1) -> None:
        """Run a training to its end."""
        self.start(outputs, processes)
        assert self.end() == {0}

    def kill(self, outputs: str, seconds: float, processes: int = 1) -> dict[str, Any]:
        """Kill a training so long after it has written its state; return that state."""
        pids = self.start(outputs, processes)
        state = self.folder / outputs / STATE.name
        written = state.stat().st_mtime_ns if state.exists() else 0
        while not state.exists() or state.stat().st_mtime_ns == written:
            time.sleep(0.001)
        time.sleep(seconds)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert self.end() == {-signal.SIGKILL}, "it was complete before it was killed"
        saved: dict[str, Any] = unpack(state.read_bytes())["state"]
        return saved

    def close(self) -> None:
        self.parent.communicate()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def runs(workspace: Workspace) -> Iterator[Runs]:
    started = Runs(workspace.folder)
    yield started
    started.close()


def test_killed_at_random_moments_it_ends_in_the_same_bytes(workspace: Workspace, runs: Runs) -> None:
    runs.buffer_bytes = 100 * 40  # half of the rows
    set_params(workspace.folder, RECIPE | {"train.checkpoint_seconds": 1000})
    runs.finish("whole")
    assert set(files(workspace.folder / "whole")) == set(OUTPUTS)

    set_params(workspace.folder, {"train.checkpoint_seconds": 0.01})
    chance = random.Random(0)
    states = [runs.kill("killed", chance.uniform(0, 0.06)) for _ in range(6)]
    set_params(workspace.folder, {"train.checkpoint_seconds": 1000})  # makes no difference to the result
    runs.finish("killed")

    steps = [len(state["epochs"]) * 9 + state["step"] for state in states]
    assert steps == sorted(set(steps)), "every run went on from where the last one was"
    assert any(state["step"] for state in states), "some were in the middle of an epoch"
    assert runs.notes.read_text().count("going on from it") == 6
    assert files(workspace.folder / "killed") == files(workspace.folder / "whole")


UNEVEN = {
    "train.epochs": 12,
    "train.batch_size": 21,  # of 200 rows: the last batch has 11
    "train.class_weights": "balanced",
    "train.label_smoothing": 0.1,
    "train.gradient_clip": 0.5,
    "train.keep": "best",
    "train.checkpoint_seconds": 1000,
}


def test_two_processes_come_to_what_one_does_and_can_be_killed(workspace: Workspace, runs: Runs) -> None:
    """Once as a user starts them, with torchrun; then killed, and started again."""
    set_params(workspace.folder, UNEVEN)
    runs.finish("one")
    stage, prepared = str(ROOT / "stages" / "train.py"), "data/prepared"
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         stage, prepared, *(f"two/{name}" for name in OUTPUTS)],
        cwd=workspace.folder, env=clean_environment(), check=True, capture_output=True,
    )  # fmt: skip
    one, two = (pd.read_csv(workspace.folder / folder / "loss.csv") for folder in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=1e-5)
    assert set(files(workspace.folder / "two")) == set(OUTPUTS)

    set_params(workspace.folder, {"train.checkpoint_seconds": 0.01})
    state = runs.kill("killed", 0.05, processes=2)
    assert state["loss_sums"].shape == (2,)
    set_params(workspace.folder, {"train.checkpoint_seconds": 1000})
    runs.finish("killed", processes=2)
    assert files(workspace.folder / "killed") == files(workspace.folder / "two")


def test_dropout_differs_between_processes(workspace: Workspace) -> None:
    """Otherwise a batch would be dropped alike in each share."""

    def draw(rank: int, seed: int, step: int) -> tuple[float, ...]:
        Processes(ALONE.device, rank, 2).seed(seed, step)
        return tuple(torch.rand(5).tolist())

    steps = [(rank, seed, step) for rank in (0, 1) for seed in (0, 1) for step in (0, 1, 7)]
    assert len({draw(*step) for step in steps}) == len(steps)
    assert draw(1, 0, 7) == draw(1, 0, 7)


def resume_file(workspace: Workspace, **changes: Any) -> ResumeFile:
    """As a training with the workspace's parameters and data opens it."""
    params = read_params("train", train.Params).model_copy(update=changes)
    data = Prepared(workspace.folder / "data" / "prepared")
    inputs = train.fingerprint(data, params, read_params("architecture", ArchitectureParams), ALONE)
    return ResumeFile(workspace.folder / STATE, inputs, 0, ALONE)


STATE_OF_A_RUN = {"step": 3, "model": {"weight": torch.ones(50)}}


def test_a_state_is_read_as_it_was_written(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    workspace.patch.chdir(workspace.folder)
    resume = resume_file(workspace)
    assert resume.read() is None
    assert capsys.readouterr().err == ""
    assert resume.due()
    resume.write(STATE_OF_A_RUN)
    leftover = workspace.folder / f"{STATE}.123"
    leftover.write_bytes(b"half of it")
    state = resume.read()
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["model"]["weight"], torch.ones(50))
    assert capsys.readouterr().err == f"{workspace.folder / STATE}: going on from it\n"
    assert not leftover.exists()
    resume.remove()
    assert not (workspace.folder / STATE).exists()


def other_parameters(workspace: Workspace) -> ResumeFile:
    return resume_file(workspace, learning_rate=0.5)


def other_data(workspace: Workspace) -> ResumeFile:
    labels = workspace.folder / "data" / "prepared" / "train_labels.npy"
    content = bytearray(labels.read_bytes())
    content[-8] ^= 1
    labels.write_bytes(content)
    return resume_file(workspace)


def another_library(workspace: Workspace) -> ResumeFile:
    workspace.patch.setattr(torch, "__version__", "9.9")
    return resume_file(workspace)


@pytest.mark.parametrize(
    ("changed", "name"),
    [(other_parameters, "parameters"), (other_data, "data"), (another_library, "hardware or libraries")],
)
def test_a_state_made_from_anything_else_is_left_aside(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], changed: Callable[[Workspace], ResumeFile], name: str
) -> None:
    workspace.patch.chdir(workspace.folder)
    resume_file(workspace).write(STATE_OF_A_RUN)
    assert changed(workspace).read() is None
    assert capsys.readouterr().err.endswith(f"{STATE}: left aside, it was made from other {name}\n")


def test_how_often_the_state_is_written_makes_no_difference(workspace: Workspace) -> None:
    workspace.patch.chdir(workspace.folder)
    resume_file(workspace).write(STATE_OF_A_RUN)
    assert resume_file(workspace, checkpoint_seconds=7.0).read() is not None


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


def pickled() -> bytes:
    content = io.BytesIO()
    torch.save({"inputs": Code(), "state": {}}, content)
    return hashlib.sha256(content.getvalue()).digest() + content.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:1000],
        lambda content: content[: len(content) - 10],
        lambda content: content.replace(torch.ones(4).numpy().tobytes(), torch.zeros(4).numpy().tobytes(), 1),
        lambda content: b"",
        lambda content: pickle.dumps(Code()),
        lambda content: pickled(),
    ],
    ids=["truncated", "end missing", "flipped bits", "empty", "pickled code", "code and the right hash"],
)
def test_a_damaged_state_is_left_aside_and_runs_no_code(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]
) -> None:
    workspace.patch.chdir(workspace.folder)
    resume_file(workspace).write(STATE_OF_A_RUN)
    content = (workspace.folder / STATE).read_bytes()
    (workspace.folder / STATE).write_bytes(damage(content))
    assert damage(content) != content
    assert resume_file(workspace).read() is None
    notice = capsys.readouterr().err
    assert f"{STATE}: left aside, it is damaged: " in notice
    assert notice.count("\n") == 1
    assert not (workspace.folder / "unpickled").exists()


def test_training_beside_a_damaged_state_starts_anew(workspace: Workspace) -> None:
    expected = files(workspace.folder / "models" / "pytorch")
    (workspace.folder / STATE).write_bytes(b"no state")
    assert "left aside, it is damaged" in workspace.call("train")
    assert files(workspace.folder / "models" / "pytorch") == expected


def test_dvc_repro_goes_on_after_a_kill(reproduced: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC is killed too. Git does not see the state."""
    for key, value in {"train.epochs": 60, "train.batch_size": 20, "train.checkpoint_seconds": 0.1}.items():
        reproduced.set(key, value)
    state = reproduced.folder / STATE
    killed = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "train"],
        cwd=reproduced.folder, env=clean_environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not state.exists():
        assert killed.poll() is None
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert ".resume" not in reproduced.git("status", "--short")
    first = unpack(state.read_bytes())["state"]
    assert len(first["epochs"]) < 60

    assert reproduced.repro("train") == ["train"]

    assert not state.exists()
    assert json.loads((reproduced.folder / "metrics" / "train.json").read_text())["epochs"] == 60
    monkeypatch.chdir(reproduced.folder)
    uninterrupted, _ = train.train(
        Prepared(Path("data/prepared")),
        read_params("train", train.Params),
        read_params("architecture", ArchitectureParams),
    )
    resumed = load_checkpoint(Path("models/pytorch/classifier.pt")).model
    for found, expected in zip(resumed.parameters(), uninterrupted.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)

"""A project whose stages take no time, with the real command, real clones, real DVC."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from commands.sweeps.pipeline import Pipeline, read_pipeline
from tests.support import ROOT, Project

import pytest

TOY = Path(__file__).parent / "toy"
MISSING = [name for name in ("ray", "optuna") if find_spec(name) is None]
ALL = bool(os.environ.get("SWEEP_TESTS"))
"""Set by `make test-sweep`, which installs what these tests need: then none is skipped."""
collect_ignore_glob = [] if ALL else ["test_*.py"]
Keep = Callable[["subprocess.Popen[str]"], "subprocess.Popen[str]"]
NEEDS_RAY = pytest.mark.skipif(bool(MISSING) and not ALL, reason=f"`make test-sweep` runs it: no {', '.join(MISSING)}")


@dataclass(frozen=True)
class Toy(Project):
    """A project of the toy pipeline.

    Attributes:
        log: Where every stage that is executed writes a line.
    """

    log: Path = field(kw_only=True)

    @property
    def hold(self) -> Path:
        """While this file is there, no training ends."""
        return self.log.with_suffix(".hold")

    def environment(self) -> dict[str, str]:
        """Of every command: who commits, and where the stages say that they ran."""
        identity = {f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return identity | {"RUN_LOG": str(self.log), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

    def ran(self) -> Counter[str]:
        """How often each stage was executed, in whichever clone."""
        return Counter(self.log.read_text().splitlines() if self.log.exists() else [])

    def space(self, **content: Any) -> str:
        """Write a search space (JSON is YAML) outside of Git's sight."""
        path = self.folder / "sweeps" / "space.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        return str(path)

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        """Start the command in a session of its own."""
        return subprocess.Popen(
            [sys.executable, "commands/sweep.py", *arguments],
            cwd=self.folder,
            env={**os.environ, **self.environment(), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def sweep(self, *arguments: str, code: int = 0, **variables: str) -> str:
        """Run the command; return what it printed."""
        process = self.start(*arguments, **variables)
        try:
            output, _ = process.communicate(timeout=240)
        finally:
            end(process)
        assert process.returncode == code, output
        return output

    def trial(self, *arguments: str, code: int = 0, folder: Path | None = None, within: Sequence[str] = ()) -> str:
        """Run the one-trial command in a clone, or here; `within` is a command that runs it."""
        result = subprocess.run(
            [*within, sys.executable, "commands/sweeps/trial.py", *arguments],
            cwd=folder or self.folder,
            env={**os.environ, **self.environment()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert result.returncode == code, result.stdout
        return result.stdout

    def experiments(self) -> dict[str, str]:
        """The experiments of this commit that are in this repository: name to SHA."""
        revision = self.git("rev-parse", "HEAD").strip()
        prefix = f"refs/exps/{revision[:2]}/{revision[2:]}/"
        listed = self.git("for-each-ref", "--format=%(refname) %(objectname)", prefix)
        return {line.split()[0].removeprefix(prefix): line.split()[1] for line in listed.splitlines()}

    def figure(self, experiment: str, file: str) -> Any:
        """The content of a metrics file of an experiment."""
        return json.loads(self.git("show", f"{experiment}:metrics/{file}.json"))


def end(process: "subprocess.Popen[str]") -> None:
    """End a process that a test started, with its whole session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[str] | None" = None) -> None:
    """Wait until something holds; fail with what the process printed if it ends before, or takes too long."""
    deadline = time.time() + 180
    while not condition():
        if time.time() > deadline or (process and process.poll() is not None):
            if process:
                end(process)
            pytest.fail(f"it never happened; {process.communicate()[0] if process else ''}")
        time.sleep(0.1)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def make_toy(folder: Path) -> Toy:
    """Copy the toy pipeline, the command, and the kit that both need."""
    shutil.copytree(TOY, folder, ignore=shutil.ignore_patterns("__pycache__"))
    ignored = shutil.ignore_patterns("__pycache__", "node_modules")
    (folder / "pipeline.yaml").rename(folder / "dvc.yaml")
    shutil.copytree(ROOT / "commands", folder / "commands", ignore=ignored)
    shared = folder / "stages" / "shared"
    shutil.copytree(ROOT / "stages" / "shared" / "kit", shared / "kit", ignore=ignored)
    shutil.copy(ROOT / "stages" / "shared" / "__init__.py", shared)
    shutil.copy(ROOT / ".dvcignore", folder)
    (folder / ".gitignore").write_text("/data/\n/models/\n__pycache__/\n/sweeps/\n")
    toy = Toy(folder, log=folder.with_name(f"{folder.name}.log"))
    toy.git("init", "--quiet")
    toy.git("config", "user.name", "test")
    toy.git("config", "user.email", "test@example.com")
    toy.dvc("init", "--quiet")
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    # A run that is committed: what an experiment must not take for its own.
    toy.dvc("repro", "--quiet", env={"RUN_LOG": str(toy.log)})
    toy.commit()
    toy.log.unlink()
    return toy


@pytest.fixture(scope="session")
def pipeline() -> Pipeline:
    """The project's own."""
    return read_pipeline(ROOT)


@pytest.fixture(scope="session")
def first_toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """The project, committed. Not to be changed."""
    return make_toy(tmp_path_factory.mktemp("toy") / "project")


@pytest.fixture
def toy(first_toy: Toy, tmp_path: Path) -> Toy:
    """A copy of the project, to be changed."""
    folder = tmp_path / "project"
    shutil.copytree(first_toy.folder, folder, symlinks=True)
    return Toy(folder, log=tmp_path / "runs.log")


def trials_of(output: str) -> dict[str, str]:
    """Name to status, as the command prints one line for each trial."""
    return dict(re.findall(r"^(sweep-\w+)  (\w+)", output, flags=re.MULTILINE))


LEARNING_RATES: dict[str, Any] = {"train.learning_rate": {"choices": [0.01, 0.03]}}
ACCURACY = [{"metric": "evaluate.onnx.int8.accuracy", "better": "higher"}]
GRID: dict[str, Any] = {"sampler": "grid", "parameters": LEARNING_RATES, "objectives": ACCURACY}


@pytest.fixture
def processes() -> Iterator[Keep]:
    """Keep a process that a test starts; it is ended with its session when the test is over."""
    kept: list[subprocess.Popen[str]] = []

    def keep(process: "subprocess.Popen[str]") -> "subprocess.Popen[str]":
        kept.append(process)
        return process

    yield keep
    for process in reversed(kept):
        end(process)

"""A cluster of two nodes on this machine, with a token: what is lost with a worker, a node or the driver runs again.

Each node has an address of its own on the loopback. Every process that ends here is one that the test started.
"""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.sweep.conftest import ACCURACY, NEEDS_RAY, Keep, Toy, end, free_port, listens, trials_of, wait_for

import psutil
import pytest

pytestmark = NEEDS_RAY

GRID: dict[str, Any] = {
    "sampler": "grid",
    "parameters": {"train.learning_rate": {"choices": [0.01, 0.03, 0.1, 0.3]}},
    "objectives": ACCURACY,
}


@dataclass
class TwoNodes:
    """A cluster whose nodes have one core each; `variables` let a driver in."""

    address: str
    nodes: "list[subprocess.Popen[str]]"
    variables: dict[str, str]

    def workers(self, number: int) -> list[psutil.Process]:
        """The processes of Ray on a node that run a trial."""
        return [each for each in of_session(self.nodes[number]) if "run_on_node" in words_of(each)]


@pytest.fixture
def cluster(toy: Toy, tmp_path: Path, processes: Keep) -> Iterator[TwoNodes]:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    variables = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }
    port = free_port()
    address = f"127.0.0.1:{port}"
    ray = shutil.which("ray", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert ray is not None
    with TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # the paths of sockets must be short
        head = ["--head", "--port", str(port), "--include-dashboard=false", f"--temp-dir={folder}"]
        nodes = []
        for number, options in enumerate((head, ["--address", address]), 1):
            # A session of its own: it is ended by its id, and nobody else's Ray with it.
            node = subprocess.Popen(
                [ray, "start", "--block", "--num-cpus=1", f"--node-ip-address=127.0.0.{number}", *options],
                env={**os.environ, **toy.environment(), **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            nodes.append(processes(node))
            wait_for(lambda: listens(port), node)
        yield TwoNodes(address, nodes, variables)
        for node in nodes:
            end(node)


def of_session(node: "subprocess.Popen[str]") -> list[psutil.Process]:
    """A node's processes; its trials have sessions of their own."""
    return [process for process in psutil.process_iter() if session_of(process.pid) == node.pid]


def session_of(pid: int) -> int | None:
    """The session of a process, if it still is."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def words_of(process: psutil.Process) -> str:
    """A process's command line, if it still is."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture
def published(toy: Toy, tmp_path: Path) -> Path:
    """A bare repository that the project is pushed to, and a folder as its DVC remote."""
    toy.set("train.seconds", 5.0)
    toy.commit()
    remote = tmp_path / "remote.git"
    toy.git("clone", "--quiet", "--bare", str(toy.folder), str(remote))
    toy.git("remote", "add", "origin", f"file://{remote}")
    toy.dvc("remote", "add", "--local", "--default", "storage", str(tmp_path / "storage"))
    toy.dvc("push", "--run-cache")
    return remote


def assert_all_pulled(toy: Toy, remote: Path, folder: Path, names: set[str]) -> None:
    """Every experiment of the remote is whole: in a clean clone, with the hashes that its lock says."""
    toy.git("clone", "--quiet", str(remote), str(folder))
    clone = Toy(folder, log=toy.log)
    shutil.copy(toy.folder / ".dvc" / "config.local", folder / ".dvc" / "config.local")
    clone.dvc("exp", "pull", "origin", "--rev", "HEAD")
    experiments = clone.experiments()
    assert set(experiments) == names
    for name, commit in experiments.items():
        clone.git("checkout", "--quiet", "--force", "--detach", commit)
        clone.dvc("checkout", "--quiet", "--with-deps", "evaluate")
        assert clone.dvc("status", "--with-deps", "evaluate").strip() == "Data and pipelines are up to date.", name


def test_what_a_killed_worker_node_and_driver_ran_runs_again_and_all_is_published_once(
    toy: Toy, cluster: TwoNodes, published: Path, tmp_path: Path, processes: Keep
) -> None:
    command = [toy.space(**GRID), "--address", cluster.address, "--remote", "origin", "--jobs", "2"]
    command += ["--work", str(tmp_path / "work")]

    driver = processes(toy.start(*command, **cluster.variables))
    wait_for(lambda: cluster.workers(0) and cluster.workers(1) and len(toy.ran()) == 2, driver)
    cluster.workers(0)[0].kill()
    wait_for(toy.experiments, driver)
    driver.kill()
    first = toy.experiments()

    driver = processes(toy.start(*command, **cluster.variables))
    wait_for(lambda: cluster.workers(1), driver)
    for process in of_session(cluster.nodes[1]):
        process.kill()
    output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, output
    assert "4 trials: 4 complete" in output
    assert set(trials_of(output).values()) == {"published"}
    assert len(toy.experiments()) == 4
    assert first.items() <= toy.experiments().items(), "what was published stays as it was"
    assert_all_pulled(toy, published, tmp_path / "clean", set(toy.experiments()))


def test_a_driver_without_the_token_is_not_let_in(toy: Toy, cluster: TwoNodes, tmp_path: Path) -> None:
    other = tmp_path / "other-token"
    other.touch(mode=0o600)
    other.write_text(secrets.token_hex(32))
    arguments = (toy.space(**GRID), "--address", cluster.address, "--cache", str(toy.folder / ".dvc" / "cache"))
    output = toy.sweep(*arguments, code=1, **cluster.variables | {"RAY_AUTH_TOKEN_PATH": str(other)})
    assert output.splitlines()[-1].startswith(f"sweep: error: no Ray cluster at {cluster.address}: ")
    assert not toy.ran()

"""A cluster of two nodes on this machine, with a token: what is lost with a worker or a node runs again, and once."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.sweep.conftest import ACCURACY, NEEDS_RAY, Toy, trials_of

import psutil
import pytest

pytestmark = NEEDS_RAY

PARAMETERS = {"train.learning_rate": {"choices": [0.01, 0.03, 0.1, 0.3]}}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class TwoNodes:
    """A cluster whose nodes have one core each; `variables` let a driver in."""

    address: str
    nodes: "list[subprocess.Popen[str]]"
    variables: dict[str, str]


@pytest.fixture
def cluster(
    toy: Toy, tmp_path: Path, processes: Callable[["subprocess.Popen[str]"], "subprocess.Popen[str]"]
) -> TwoNodes:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    variables = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    address = f"127.0.0.1:{free_port()}"
    ray = shutil.which("ray", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert ray is not None
    nodes = []
    for options in (["--head", "--port", address.split(":")[1], "--include-dashboard=false"], ["--address", address]):
        command = [ray, "start", "--block", "--num-cpus=1", "--node-ip-address=127.0.0.1", *options]
        # A session of its own: it is ended by its id, and nobody else's Ray with it.
        node = subprocess.Popen(
            [*command, f"--temp-dir=/tmp/ray-{os.getpid()}"] if "--head" in options else command,
            env={**os.environ, **toy.environment(), **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        nodes.append(processes(node))
        wait_until(lambda: can_connect(address), 60)
    return TwoNodes(address, nodes, variables)


def can_connect(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as connection:
        return connection.connect_ex((host, int(port))) == 0


def wait_until(condition: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "it never happened"
        time.sleep(0.2)


def of_session(node: "subprocess.Popen[str]") -> list[psutil.Process]:
    """A node's processes; its trials have sessions of their own."""
    return [process for process in psutil.process_iter() if session_of(process.pid) == node.pid]


def session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


@pytest.fixture
def published(toy: Toy, tmp_path: Path) -> Path:
    """A bare repository that the project is pushed to, and a folder as its DVC remote."""
    remote = tmp_path / "remote.git"
    toy.git("clone", "--quiet", "--bare", str(toy.folder), str(remote))
    toy.git("remote", "add", "origin", f"file://{remote}")
    toy.dvc("remote", "add", "--local", "--default", "storage", str(tmp_path / "storage"))
    toy.dvc("push", "--run-cache")
    return remote


def assert_all_pulled(toy: Toy, remote: Path, folder: Path, names: set[str]) -> None:
    """Every experiment of the remote is whole: in a clean clone, with the right data."""
    toy.git("clone", "--quiet", str(remote), str(folder))
    clone = Toy(folder, log=toy.log)
    shutil.copy(toy.folder / ".dvc" / "config.local", folder / ".dvc" / "config.local")
    clone.dvc("exp", "pull", "origin", "--rev", "HEAD")
    assert set(clone.experiments()) == names
    for name in names:
        clone.git("checkout", "--quiet", "--force", "--detach", clone.experiments()[name])
        clone.dvc("checkout", "--quiet")
        clone.git("clean", "--quiet", "-fd")
        assert clone.dvc("status").strip() == "Data and pipelines are up to date.", name


def test_what_a_killed_worker_and_a_killed_node_ran_runs_again_and_all_is_published_once(
    toy: Toy,
    cluster: TwoNodes,
    published: Path,
    tmp_path: Path,
    processes: Callable[["subprocess.Popen[str]"], "subprocess.Popen[str]"],
) -> None:
    toy.set("train.seconds", 4.0)
    toy.commit()
    toy.git("push", "--quiet", "origin", "HEAD:main")
    space = toy.space(sampler="grid", parameters=PARAMETERS, objectives=ACCURACY)
    arguments = ("--address", cluster.address, "--remote", "origin", "--work", str(tmp_path / "work"))
    driver = processes(toy.start(space, *arguments, **cluster.variables))

    def training() -> int:
        return sum("train" in stage for stage in toy.ran())

    wait_until(lambda: training() >= 1)
    workers = [each for node in cluster.nodes for each in of_session(node) if "run_on_node" in " ".join(each.cmdline())]
    assert workers
    workers[0].kill()
    wait_until(lambda: len(toy.experiments()) >= 1)
    second = cluster.nodes[1]
    for each in of_session(second):
        each.send_signal(signal.SIGKILL)
    output, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, output
    statuses = trials_of(output)
    assert sorted(statuses.values()) == ["published"] * 4
    assert set(toy.experiments()) == set(statuses)
    assert_all_pulled(toy, published, tmp_path / "clean", set(statuses))


def test_a_driver_without_the_token_is_not_let_in(toy: Toy, cluster: TwoNodes, tmp_path: Path) -> None:
    other = tmp_path / "other-token"
    other.touch(mode=0o600)
    other.write_text(secrets.token_hex(32))
    space = toy.space(sampler="grid", parameters=PARAMETERS, objectives=ACCURACY)
    arguments = (space, "--address", cluster.address, "--cache", str(toy.folder / ".dvc" / "cache"))
    output = toy.sweep(*arguments, code=1, **cluster.variables | {"RAY_AUTH_TOKEN_PATH": str(other)})
    assert output.splitlines()[-1].startswith(f"sweep: error: no Ray cluster at {cluster.address}: ")
    assert not toy.ran()

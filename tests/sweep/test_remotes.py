"""Real remotes: Git and DVC over a real SSH server, data on a real S3 server; both ways, and while they are down."""

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from tests.sweep.conftest import ALL, Keep, Toy, end, free_port, listens, wait_for

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")


class Server:
    """A server of a test's own on a port of this machine, which can be down for a while."""

    def __init__(self, command: list[str], port: int, processes: Keep) -> None:
        self._command, self._port, self._keep = command, port, processes
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = subprocess.DEVNULL
        process = subprocess.Popen(self._command, stdout=log, stderr=log, text=True, start_new_session=True)
        self._process = self._keep(process)
        wait_for(lambda: listens(self._port), process)

    def stop(self) -> None:
        """End it."""
        end(self._process)


def add_clone(toy: Toy, url: str, folder: Path, config: str) -> Path:
    """Clone the project as another machine does: with a DVC cache of its own."""
    toy.git("clone", "--quiet", url, str(folder))
    (folder / ".dvc" / "config.local").write_text(config)
    return folder


def assert_published_and_pulled(toy: Toy, url: str, tmp_path: Path, config: str) -> Path:
    """Run a trial in a clone, get it from both remotes into a clean one, and go on from it in a third."""
    worker, reader, third = (add_clone(toy, url, tmp_path / name, config) for name in ("worker", "reader", "third"))
    output = toy.trial("--set", "train.learning_rate=0.01", "--publish", url, "--push-data", folder=worker)
    assert ": published" in output.splitlines()[-1]
    name = output.split(":")[-2].split()[-1]
    clone = Toy(reader, log=toy.log)
    ran = toy.ran()
    if url.startswith("ssh:"):  # `dvc exp pull` knows the keys of ~/.ssh alone
        clone.git("fetch", "--quiet", "origin", "refs/exps/*:refs/exps/*")
        clone.git("checkout", "--quiet", "--detach", clone.experiments()[name])
        clone.dvc("pull")
    else:
        clone.dvc("exp", "pull", "origin", name)
        clone.dvc("exp", "apply", name)
    assert clone.dvc("status").strip() == "Data and pipelines are up to date."
    # Another worker finds what this one has computed.
    output = toy.trial("--set", "train.learning_rate=0.01", "--set", "verify.limit=0.2", "--push-data", folder=third)
    assert ": published" in output.splitlines()[-1]
    assert toy.ran() - ran == {"verify": 1}
    return third


def assert_kept_while_down(
    toy: Toy, clone: Path, server: Server, told: str, prepare: Callable[[], object] = lambda: None
) -> None:
    """A trial that ends while the server is down says so, and is published by the same command when it is up."""
    toy.git("-C", str(clone), "reset", "--hard", "--quiet")
    arguments = ("--set", "train.learning_rate=0.02", "--push-data")
    server.stop()
    output = toy.trial(*arguments, code=2, folder=clone)
    assert f": unpublished: {told}" in output.splitlines()[-1]
    ran = toy.ran()
    assert ran["train 0.02 2"] == 1
    server.start()
    prepare()
    toy.git("-C", str(clone), "reset", "--hard", "--quiet")
    assert ": published" in toy.trial(*arguments, folder=clone).splitlines()[-1]
    assert toy.ran() == ran


@pytest.fixture
def remote(toy: Toy, tmp_path: Path) -> Path:
    """A bare repository."""
    folder = tmp_path / "remote.git"
    toy.git("clone", "--quiet", "--bare", str(toy.folder), str(folder))
    return folder


def test_a_folder_is_a_remote(toy: Toy, remote: Path, tmp_path: Path) -> None:
    config = f"['remote \"storage\"']\n    url = {tmp_path / 'storage'}\n[core]\n    remote = storage\n"
    assert_published_and_pulled(toy, f"file://{remote}", tmp_path, config)


@pytest.mark.skipif(
    not ALL and (SSHD is None or find_spec("dvc_ssh") is None), reason="`make test-sweep` runs it: no sshd or dvc-ssh"
)
def test_a_server_over_ssh_is_a_remote(
    toy: Toy, remote: Path, tmp_path: Path, processes: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SSHD, "no sshd: apt-get install openssh-server"
    home = tmp_path / "ssh"
    home.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True)
    (home / "authorized_keys").write_text((home / "user.pub").read_text())
    port = free_port()
    (home / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {home / 'host'}\nPidFile {home / 'pid'}\n"
        f"AuthorizedKeysFile {home / 'authorized_keys'}\nPasswordAuthentication no\nUsePAM no\nStrictModes no\n"
        "PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where Debian's sshd separates its privileges
    server = Server([SSHD, "-D", "-e", "-f", str(home / "sshd_config")], port, processes)
    known = home / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {(home / 'host.pub').read_text()}")
    monkeypatch.setenv(
        "GIT_SSH_COMMAND", f"ssh -i {home / 'user'} -p {port} -o UserKnownHostsFile={known} -o BatchMode=yes"
    )
    user = getpass.getuser()
    config = (
        f"['remote \"storage\"']\n    url = ssh://{user}@127.0.0.1:{port}{tmp_path / 'storage'}\n"
        f"    keyfile = {home / 'user'}\n    allow_agent = false\n[core]\n    remote = storage\n"
    )
    (tmp_path / "storage").mkdir()
    clone = assert_published_and_pulled(toy, f"ssh://{user}@127.0.0.1:{port}{remote}", tmp_path, config)
    assert_kept_while_down(toy, clone, server, "dvc push: ")


@pytest.mark.skipif(
    not ALL and (find_spec("moto") is None or find_spec("dvc_s3") is None), reason="`make test-sweep` runs it: no moto"
)
def test_a_bucket_on_s3_is_a_remote(
    toy: Toy, remote: Path, tmp_path: Path, processes: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    port = free_port()
    server = Server([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, processes)
    endpoint = f"http://127.0.0.1:{port}"

    def make_bucket() -> None:
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="trials")

    make_bucket()
    options = f"    url = s3://trials/project\n    endpointurl = {endpoint}"
    config = f"['remote \"storage\"']\n{options}\n[core]\n    remote = storage\n"
    clone = assert_published_and_pulled(toy, f"file://{remote}", tmp_path, config)
    assert_kept_while_down(toy, clone, server, "dvc push: ", make_bucket)  # it keeps all in memory

"""Real remotes: Git and DVC over a real SSH server, data on a real S3 server; both ways."""

import getpass
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tests.sweep.conftest import ALL, Keep, Toy, free_port, listens, wait_for

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")


def run_published(toy: Toy, url: str, tmp_path: Path, config: str) -> None:
    """Run a trial in a clone of a Git remote, then get it from there and from the DVC remote into a clean clone."""
    folders = [tmp_path / name for name in ("worker", "reader")]
    for folder in folders:
        toy.git("clone", "--quiet", url, str(folder))
        (folder / ".dvc" / "config.local").write_text(config)
    worker, reader = folders
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
    # Another worker with a cache of its own finds what this one has computed.
    third = tmp_path / "third"
    toy.git("clone", "--quiet", url, str(third))
    (third / ".dvc" / "config.local").write_text(config)
    output = toy.trial("--set", "train.learning_rate=0.01", "--set", "verify.limit=0.2", "--push-data", folder=third)
    assert ": published" in output.splitlines()[-1]
    assert toy.ran() - ran == {"verify": 1}


def test_a_folder_is_a_remote(toy: Toy, tmp_path: Path) -> None:
    remote = tmp_path / "remote.git"
    toy.git("clone", "--quiet", "--bare", str(toy.folder), str(remote))
    config = f"['remote \"storage\"']\n    url = {tmp_path / 'storage'}\n[core]\n    remote = storage\n"
    run_published(toy, f"file://{remote}", tmp_path, config)


@pytest.mark.skipif(
    not ALL and (SSHD is None or find_spec("dvc_ssh") is None), reason="`make test-sweep` runs it: no sshd or dvc-ssh"
)
def test_a_server_over_ssh_is_a_remote(
    toy: Toy, tmp_path: Path, processes: Keep, monkeypatch: pytest.MonkeyPatch
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
    command = [SSHD, "-D", "-e", "-f", str(home / "sshd_config")]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    processes(server)
    wait_for(lambda: listens(port))
    known = home / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {(home / 'host.pub').read_text()}")
    monkeypatch.setenv(
        "GIT_SSH_COMMAND", f"ssh -i {home / 'user'} -p {port} -o UserKnownHostsFile={known} -o BatchMode=yes"
    )
    remote = tmp_path / "remote.git"
    toy.git("clone", "--quiet", "--bare", str(toy.folder), str(remote))
    user = getpass.getuser()
    config = (
        f"['remote \"storage\"']\n    url = ssh://{user}@127.0.0.1:{port}{tmp_path / 'storage'}\n"
        f"    keyfile = {home / 'user'}\n    allow_agent = false\n[core]\n    remote = storage\n"
    )
    (tmp_path / "storage").mkdir()
    run_published(toy, f"ssh://{user}@127.0.0.1:{port}{remote}", tmp_path, config)


@pytest.mark.skipif(
    not ALL and (find_spec("moto") is None or find_spec("dvc_s3") is None), reason="`make test-sweep` runs it: no moto"
)
def test_a_bucket_on_s3_is_a_remote(toy: Toy, tmp_path: Path, processes: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    processes(
        subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
    )
    endpoint = f"http://127.0.0.1:{port}"

    wait_for(lambda: listens(port))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="trials")
    remote = tmp_path / "remote.git"
    toy.git("clone", "--quiet", "--bare", str(toy.folder), str(remote))
    options = f"    url = s3://trials/project\n    endpointurl = {endpoint}"
    config = f"['remote \"storage\"']\n{options}\n[core]\n    remote = storage\n"
    run_published(toy, f"file://{remote}", tmp_path, config)

"""The recipes for SLURM and Kubernetes run what they say."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import ROOT
from tests.sweep.conftest import Toy

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

RECIPES = ROOT / "docs" / "sweeps"
TRIALS = "--set train.learning_rate=0.01\n--set train.learning_rate=0.03 --set train.layers=1\n"


@pytest.fixture
def remote(toy: Toy, tmp_path: Path) -> Path:
    """A bare repository whose DVC remote is a folder, as a team has committed it."""
    toy.dvc("remote", "add", "--default", "storage", str(tmp_path / "storage"))
    toy.commit()
    folder = tmp_path / "remote.git"
    toy.git("clone", "--quiet", "--bare", str(toy.folder), str(folder))
    return folder


def run(toy: Toy, command: list[str], **variables: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        command,
        env={**os.environ, **toy.environment(), "PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert ": published" in result.stdout.splitlines()[-1]


def published(toy: Toy, remote: Path) -> list[str]:
    return toy.git("ls-remote", str(remote), "refs/exps/*").splitlines()


def test_a_job_of_slurm_runs_the_trial_of_its_line(toy: Toy, remote: Path, tmp_path: Path) -> None:
    settings = tmp_path / "trials.txt"
    settings.write_text(TRIALS)
    variables = {"REPOSITORY": str(remote), "REVISION": "main", "SETTINGS": str(settings)}
    run(toy, ["sh", str(RECIPES / "slurm.sh")], **variables, SLURM_ARRAY_TASK_ID="1")
    assert toy.ran()["train 0.03 1"] == 1
    assert len(published(toy, remote)) == 1


def test_a_pod_of_kubernetes_runs_the_trial_of_its_line(toy: Toy, remote: Path, tmp_path: Path) -> None:
    job = YAML(typ="safe").load(RECIPES / "kubernetes.yaml")
    kubernetes_validate.validate(job, "1.34", strict=True)
    [container] = job["spec"]["template"]["spec"]["containers"]
    [rule] = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    (tmp_path / "trials.txt").write_text(TRIALS)
    [script] = container["args"]
    # Where the pod has folders at the root, this machine has some of its own.
    script = script.replace("/work", str(tmp_path / "work")).replace("/trials/", f"{tmp_path}/")
    variables: dict[str, Any] = {each["name"]: each["value"] for each in container["env"]}
    variables |= {"REPOSITORY": str(remote), "JOB_COMPLETION_INDEX": "0"}
    run(toy, [*container["command"], script], **variables)
    assert toy.ran()["train 0.01 2"] == 1
    assert len(published(toy, remote)) == 1

"""Run `make_artifacts` in the packages that its first lines and its lock file name: uv installs and keeps them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from shared.kit.stage import StageError, one_line

SCRIPT = Path(__file__).with_name("make_artifacts.py")


def find_uv() -> str:
    """The program uv: this environment's, or any on the path.

    Raises:
        StageError: There is none.
    """
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("uv", path=places)
    if found is None:
        raise StageError(
            "uv is not installed, which keeps ONNX Runtime's training package in an environment of its own: "
            "pip install -r requirements-training.txt, or training_artifacts.optimizers: []"
        )
    return found


def run_in_environment(folder: Path) -> None:
    """Make the artifacts of the model in a folder, and train with them: see `make_artifacts`.

    Raises:
        StageError: The environment cannot be made, or the program failed.
    """
    # What is written does not depend on the order of sets; a virtual environment that is active is none of its own.
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [find_uv(), "run", "--quiet", "--locked", "--script", str(SCRIPT), str(folder)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace")[-2000:]
        raise StageError(
            f"{SCRIPT.name} failed in its own environment ({done.returncode}): {one_line(Exception(said))}"
        )

"""Where a benchmark runs: the machine in words, a clone of the last commit, this Python for what is started there."""

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def machine_in_words() -> str:
    """What figures depend on beside the project, in a line; it needs `stages/` on the path."""
    from benchmark import machine

    return ", ".join(f"{name} {value}" for name, value in machine().items())


def clone_project(folder: Path) -> None:
    """The last commit of this project, in a new folder; with ONNX Runtime for WebAssembly, if it is installed here."""
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(folder)], check=True)
    installed = PROJECT / "web" / "node_modules"
    if installed.exists():
        (folder / "web" / "node_modules").symlink_to(installed)


def environment() -> dict[str, str]:
    """This process's, where `python` is this Python: DVC and the stages' commands look for that."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

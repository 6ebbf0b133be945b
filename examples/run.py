"""Run a worked example: real recordings through the whole pipeline.

    python examples/run.py basic_motions

A clone of the last commit is made in a temporary folder (or in the one given), and gets what the README says of own
data: the stage `generate` is deleted, the table is added to DVC, and the example's parameters are set. Then DVC
reproduces the pipeline there, and the figures of every model file are printed beside published ones. The workspace
stays as it is.

The recordings lie in the wheel of the package aeon. pip downloads it once into examples/cache/, checked by its hash.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from ruamel.yaml import YAML

EXAMPLES = Path(__file__).resolve().parent
PROJECT = EXAMPLES.parent
CACHE = EXAMPLES / "cache"


@dataclass(frozen=True)
class Recording:
    """One labelled recording.

    Attributes:
        channels: (time, channels).
        label: Name of its class.
        split: `train` or `test`, as its publishers divided them.
    """

    channels: NDArray[np.float64]
    label: str
    split: str


def find_wheel() -> Path:
    """The wheel of aeon, downloaded at the first call."""
    if not list(CACHE.glob("aeon-*.whl")):
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        options = ["--require-hashes", "--requirement", str(EXAMPLES / "aeon.txt"), "--dest", str(CACHE)]
        result = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        if result.returncode:
            reason = result.stderr.strip().splitlines()[-1:] or ["no reason given"]
            sys.exit(f"example: error: pip cannot download what {EXAMPLES / 'aeon.txt'} names: {reason[0]}")
    return next(CACHE.glob("aeon-*.whl"))


def read_recordings(wheel: Path, name: str) -> list[Recording]:
    """Read a data set in the archive's .ts format: a line a recording, channels and label separated by colons."""
    recordings = []
    with zipfile.ZipFile(wheel) as archive:
        for split in ("train", "test"):
            text = archive.read(f"aeon/datasets/data/{name}/{name}_{split.upper()}.ts").decode()
            _, _, data = text.partition("@data\n")
            for line in data.splitlines():
                *channels, label = line.strip().split(":")
                values = np.array([channel.split(",") for channel in channels], dtype=np.float64)
                recordings.append(Recording(values.T, label, split))
    return recordings


def load_table(example: Path) -> Any:
    """The example's own script, which names its data set and turns its recordings into a table."""
    spec = importlib.util.spec_from_file_location(f"{example.name}_table", example / "table.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def merge(params: dict[str, Any], changes: dict[str, Any]) -> None:
    """Set the values of nested sections; the others stay."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(params.get(key), dict):
            merge(params[key], value)
        else:
            params[key] = value


def edit_project(folder: Path, example: Path) -> None:
    """The README's edits: no stage `generate`, and the example's parameters."""
    yaml = YAML()
    pipeline, params = (yaml.load(folder / name) for name in ("dvc.yaml", "params.yaml"))
    for content in (pipeline["stages"], params):
        content.pop("generate", None)
    merge(params, yaml.load(example / "params.yaml"))
    yaml.dump(pipeline, folder / "dvc.yaml")
    yaml.dump(params, folder / "params.yaml")


def run(command: list[Any], folder: Path) -> None:
    """Run a command and show what it prints; one that fails ends the example."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if subprocess.run(command, cwd=folder, env=environment, check=False).returncode:
        sys.exit(f"example: error: {' '.join(map(str, command))} failed in {folder}")


def main() -> None:
    """Read the arguments, make the clone and reproduce it."""
    names = sorted(path.parent.name for path in EXAMPLES.glob("*/table.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=names)
    parser.add_argument("folder", nargs="?", type=Path, help="a new folder to work in")
    args = parser.parse_args()
    example = EXAMPLES / args.name
    folder: Path = args.folder or Path(tempfile.mkdtemp(prefix="example-")) / args.name
    if folder.exists():
        sys.exit(f"example: error: {folder} exists; name a new folder")

    table = load_table(example)
    recordings = read_recordings(find_wheel(), table.DATA_SET)
    run(["git", "clone", "--quiet", PROJECT, folder], PROJECT)
    edit_project(folder, example)
    table.make_table(recordings).to_csv(folder / "data" / "sequences.csv", index=False)
    run([sys.executable, "-m", "dvc", "add", "--quiet", "data/sequences.csv"], folder)
    run([sys.executable, "-m", "dvc", "repro"], folder)

    print(f"\n{table.DATA_SET}: {sum(recording.split == 'test' for recording in recordings)} test recordings")
    run([sys.executable, "commands/show_metrics.py"], folder)
    print("\nPublished accuracy on the same split")
    for method, accuracy, source in pd.read_csv(example / "baselines.csv").itertuples(index=False):
        print(f"{method:<24}  {accuracy:>7}  {source}")
    print(f"\nData, models and the report are in {folder}")


if __name__ == "__main__":
    main()

"""Real projects in temporary folders: run by DVC as a user would, or by calling the stages in this process."""

import functools
import hashlib
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from commands.on_device import MissingError
from export_coreml import Params as CoreMLParams
from shared.conversion.export import ExportParams
from shared.data.sequences import PreparedWriter, Schema, Split, SplitArrays
from shared.kit import AVX2_KERNELS
from shared.kit.stage import run
from shared.network.architectures import ArchitectureParams, Choice
from shared.network.model import ModelConfig, SequenceClassifier

import numpy as np
import pytest
import torch
from filelock import FileLock
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
WRITTEN = ("data", "models", "metrics")

ALL_TESTS = "ALL_TESTS" in os.environ
"""Set by `make test-all`: what tests one thing in many nets runs with all of them, not with a sample."""

ABSENT = object()
Built = TypeVar("Built")

TABLE = "data/sequences.csv"

SMALL = {
    "generate.rows": 700,
    "prepare.train_size": 200,
    "train.epochs": 20,
    "export_coreml.largest_batch": 64,
    "compress_coreml.variants": ["palette6", "sparse50_palette4"],
    "compress_coreai.variants": [],
    "predict.batch_size": 256,
    "benchmark.rounds": 1,
    "benchmark.turn_seconds": 1e-3,
    "benchmark.batch_sizes": [8],
}
"""A run that takes a tenth of the default one's time, and still computes logits that are worth comparing."""

WORTH_SHIPPING = {"train.learning_rate": 0.02}
"""On top of `SMALL`: a net that is better than its baseline, so that a file is recommended."""

EXPORTS_ONLY: dict[str, Any] = {
    "compress_onnx.variants": [],
    "compress_coreml.variants": [],
    "compress_coreai.variants": [],
}
"""On top of `SMALL`: nothing is compressed."""


IN_EVERY_BUNDLE = {
    "SHA256SUMS", "bill-of-materials.json", "golden.json", "golden.npz", "labels.json", "model-card.md", "release.json",
    "signature.json", "verifiers", "verify.py",
}  # fmt: skip
"""What `release` writes besides models."""


def write_params(folder: Path) -> None:
    """Write the params.yaml that the tests run with: the checkout's, set back to `tests/params.yaml`."""
    yaml = YAML()
    content = yaml.load(ROOT / "params.yaml")
    for section, values in read_yaml((ROOT / "tests" / "params.yaml").read_text()).items():
        known = content.setdefault(section, values)
        known.update({key: value for key, value in values.items() if key in known})
    yaml.dump(content, folder / "params.yaml")


def write_pipeline(folder: Path) -> None:
    """Write the dvc.yaml that the tests run with: the checkout's, on the tutorial's table whether it has it or not."""
    yaml = YAML()
    content = yaml.load(ROOT / "dvc.yaml")
    stages = content["stages"]
    if "generate" not in stages:
        table = stages["prepare"]["cmd"].split()[2]
        stages["prepare"]["cmd"] = stages["prepare"]["cmd"].replace(table, TABLE)
        stages["prepare"]["deps"] = [TABLE if dep == table else dep for dep in stages["prepare"]["deps"]]
        generate = {
            "cmd": f"python stages/generate.py {TABLE}",
            "params": ["generate"],
            "deps": ["stages/generate.py", "stages/shared/kit"],
            "outs": [TABLE],
        }
        content["stages"] = {"generate": generate} | stages
    yaml.dump(content, folder / "dvc.yaml")


def set_params(folder: Path, values: dict[str, Any]) -> None:
    """Change values in a folder's params.yaml, `ABSENT` takes a key out; the rest of the file stays as it is."""
    yaml = YAML()
    file = folder / "params.yaml"
    content = yaml.load(file)
    for key, value in values.items():
        *sections, name = key.split(".")
        section = content
        for part in sections:
            section = section[part]
        if value is ABSENT:
            del section[name]
        else:
            section.ca.items.pop(name, None)  # a comment beside a list that becomes empty would swallow the next line
            section[name] = value
    yaml.dump(content, file)


def architecture(name: str = "lstm", **options: Any) -> Choice:
    """Section `architecture` as committed, with another name, and other options in the block of that name."""
    section = YAML(typ="safe").load(ROOT / "params.yaml")["architecture"]
    section |= read_yaml((ROOT / "tests" / "params.yaml").read_text())["architecture"]
    return ArchitectureParams.model_validate(section | {"name": name, name: section[name] | options})


def classifier(
    name: str = "lstm", *, time_steps: int = 5, ragged: bool = False, standardize: bool = False, **options: Any
) -> SequenceClassifier:
    """An untrained classifier of two features and three classes, ready to be exported."""
    torch.manual_seed(0)
    config = ModelConfig(
        features=["x", "y"],
        time_steps=time_steps,
        classes=["on", "off", "none"],
        ragged=ragged,
        standardize=standardize,
        architecture=name,
        options=architecture(name, **options).options,
    )
    return SequenceClassifier(config).eval()


EXPORT_NAMES = ExportParams(
    formats=["onnx", "coreml"],
    input_name="samples",
    lengths_name="steps",
    output_name="scores",
    dynamic_time=False,
    version="2.1.0",
    description="A description",
)
EXPORT_PARAMS = CoreMLParams(deployment_target="iOS17", default_batch=2, largest_batch=20, largest_time=10)
"""With which tests export a `classifier`."""


def or_skip(build: Callable[[], Built]) -> Built:
    """Build; where that lacks something, skip, but not in CI."""
    try:
        return build()
    except MissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def clean_environment() -> dict[str, str]:
    """This process's environment, without the kernels that importing `shared` pinned in it: a stage pins its own."""
    kept = {name: value for name, value in os.environ.items() if name not in {*AVX2_KERNELS, "PYTHONPATH"}}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


GIT_IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main")


def run_git(folder: Path, *args: str) -> str:
    """Run git in a folder; return what it printed."""
    command = ["git", *GIT_IDENTITY, *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class Project:
    """A copy of this repository with its own Git history and DVC cache."""

    folder: Path

    def run(self, *command: str, env: dict[str, str] | None = None) -> str:
        """Run a command as a user would from the project's folder; return what it printed."""
        environment = {
            **clean_environment(),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "COLUMNS": "400",
            **(env or {}),
        }
        result = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{shlex.join(command)}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def git(self, *args: str) -> str:
        """Run git."""
        return self.run("git", *GIT_IDENTITY, *args)

    def dvc(self, *args: str, env: dict[str, str] | None = None) -> str:
        """Run dvc."""
        return self.run(sys.executable, "-m", "dvc", *args, env=env)

    def repro(self, *args: str, env: dict[str, str] | None = None) -> list[str]:
        """Run `dvc repro`; return the stages that really ran, in their order."""
        return stages_that_ran(self.dvc("repro", *args, env=env))

    def set(self, key: str, value: Any) -> None:
        """Change a parameter."""
        set_params(self.folder, {key: value})

    def commit(self) -> None:
        """Commit everything that Git does not ignore."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "a state to compare with")

    def lock(self) -> dict[str, Any]:
        """The content of dvc.lock."""
        content: dict[str, Any] = YAML(typ="safe").load(self.folder / "dvc.lock")
        return content

    def hashes(self) -> dict[str, str]:
        """The hash of every output, by its path."""
        return {out["path"]: out["md5"] for stage in self.lock()["stages"].values() for out in stage.get("outs", [])}


def stages_that_ran(output: str) -> list[str]:
    """The stages that a repro executed; skipped ones and those restored from the run cache are not among them."""
    return re.findall(r"^Running stage '(.+)'", output, flags=re.MULTILINE)


def copy_sources(folder: Path, left_out: tuple[str, ...] = ()) -> None:
    """Copy what a commit of the working tree would hold, without the paths that begin with one of `left_out`."""
    listed = run_git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in listed.rstrip("\0").split("\0"):
        if (ROOT / name).is_file() and not name.startswith(left_out):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def copy_repository(folder: Path) -> Project:
    """Copy what a commit of the working tree would hold, without the outputs of its runs, with small parameters."""
    copy_sources(folder, left_out=("metrics/", "tests/", "dvc.lock"))
    for own_table in (folder / "data").glob("*.dvc"):
        own_table.unlink()
    write_params(folder)
    write_pipeline(folder)
    set_params(folder, SMALL | WORTH_SHIPPING)
    project = Project(folder)
    project.git("init", "--quiet")
    project.commit()
    return project


@functools.cache
def read_yaml(text: str) -> Any:
    """The content of a YAML file; not to be changed."""
    return YAML(typ="safe").load(text)


def items_of(stage: dict[str, Any], params: dict[str, Any]) -> list[str]:
    """What a `foreach` stage is repeated for: a list or keys of its own, or `${section.key}`, a list of params.yaml."""
    listed = stage["foreach"]
    if isinstance(listed, str):
        section, key = listed.removeprefix("${").removesuffix("}").split(".")
        listed = params[section][key]
    return [str(item) for item in listed]


def commands(folder: Path) -> dict[str, list[str]]:
    """Every stage of dvc.yaml, `foreach` written out with a folder's parameters, and its command in words."""
    params = read_yaml((folder / "params.yaml").read_text())
    names = []
    for name, stage in pipeline().items():
        names += [f"{name}@{item}" for item in items_of(stage, params)] if "foreach" in stage else [name]
    return {name: command(name) for name in names}


def command(name: str) -> list[str]:
    """The command of one stage, such as `train` or `predict@onnx`, in words."""
    stage, _, item = name.partition("@")
    text: str = pipeline()[stage].get("do", pipeline()[stage])["cmd"]
    repeated = pipeline()[stage].get("foreach")
    value = repeated[item] if isinstance(repeated, dict) else item
    return shlex.split(text.replace("${key}", item).replace("${item}", value))


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first of all test processes fills, and the others find."""
    together = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder, made = together / name, together / f"{name}.made"
    with FileLock(together / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # another process began and failed
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def call_stages(folder: Path, names: Iterable[str]) -> None:
    """Run stages in this process, as DVC runs them in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in names:
            _, script, *paths = command(name)
            patch.setattr(sys, "argv", [script, *paths])
            run(importlib.import_module(Path(script).stem).main)


@functools.cache
def pipeline() -> dict[str, Any]:
    """The stages of the dvc.yaml that the tests run with."""
    with tempfile.TemporaryDirectory() as folder:
        write_pipeline(Path(folder))
        stages: dict[str, Any] = read_yaml((Path(folder) / "dvc.yaml").read_text())["stages"]
    return stages


@dataclass(frozen=True)
class Workspace:
    """A folder that a stage can run in, called as DVC calls it but in this process."""

    folder: Path
    patch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def set(self, key: str, value: Any) -> None:
        """Change a parameter."""
        set_params(self.folder, {key: value})

    def call(self, stage: str, *paths: str) -> str:
        """Run a stage with the arguments that dvc.yaml gives it, or others; return what it says on stderr."""
        _, script, *usual = command(stage)
        self.patch.chdir(self.folder)
        self.patch.setattr(sys, "argv", [script, *(paths or usual)])
        self.capsys.readouterr()
        with warnings.catch_warnings():
            # As in a process of its own, where a warning is another line on stderr.
            warnings.simplefilter("default")
            for hidden in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning, ImportWarning):
                warnings.simplefilter("ignore", hidden)
            warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)
            run(importlib.import_module(Path(script).stem).main)
        return self.capsys.readouterr().err

    def refuses(self, stage: str, *paths: str, changes: tuple[str, ...] = ()) -> str:
        """Run a stage that must fail as every stage should: exit code 1, one line, no file changed but `changes`."""
        before = self.files()
        with pytest.raises(SystemExit) as stopped:
            self.call(stage, *paths)
        assert stopped.value.code == 1
        after = self.files()
        changed = {name for name in before | after if before.get(name) != after.get(name)}
        assert changed == set(changes)
        error = self.capsys.readouterr().err
        prefix = f"{stage.partition('@')[0]}: error: "
        assert error.startswith(prefix)
        assert error.endswith("\n")
        assert error.count("\n") == 1
        return error.removeprefix(prefix).rstrip("\n")

    def files(self) -> dict[str, str]:
        """Every file, hidden ones too, and the hash of its content."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


def rejections(workspace: Workspace, file_format: str) -> dict[str, str]:
    """Predict one format's files again, evaluate and verify all; what is wrong with each file, in words."""
    workspace.call(f"predict@{file_format}")
    workspace.call("evaluate")
    workspace.call("verify")
    verified = json.loads((workspace.folder / "metrics" / "verify.json").read_text())
    return {
        precision: "; ".join(figures["problems"])
        for precision, figures in verified[file_format].items()
        if not figures["passed"]
    }


def write_prepared(folder: Path, splits: dict[Split, SplitArrays], features: list[str], classes: list[str]) -> None:
    """Write a prepared folder; mean and deviation are zero and one, whatever the rows are."""
    train = splits["train"]
    counts = {split: len(arrays.labels) for split, arrays in splits.items()}
    time_steps = train.sequences.shape[1]
    schema = Schema(
        features=features,
        time_steps=time_steps,
        classes=classes,
        ragged=train.lengths is not None,
        rows=counts,
        class_rows={
            split: np.bincount(arrays.labels, minlength=len(classes)).tolist() for split, arrays in splits.items()
        },
        length_range=(1, time_steps),
        filled=0,
        mean=[0.0] * len(features),
        deviation=[1.0] * len(features),
    )
    with PreparedWriter(folder, counts, time_steps, len(features), ragged=schema.ragged) as writer:
        for split, arrays in splits.items():
            lengths = np.full(counts[split], time_steps, np.int32) if arrays.lengths is None else arrays.lengths
            writer.append(split, arrays.sequences, arrays.labels, lengths)
    writer.finish(schema)

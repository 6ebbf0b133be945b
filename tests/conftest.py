"""What the tests start from: a project that DVC reproduced, and a folder that the stages filled without DVC."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from shared.files.aimodel import why_missing
from tests.support import (
    ROOT,
    SMALL,
    Project,
    Workspace,
    call_stages,
    commands,
    copy_repository,
    made_once,
    set_params,
    write_params,
)

import pytest
import torch

# As the stages do. With more, PyTorch keeps a pool of threads, which a forked process lacks and waits for: `benchmark`,
# called in this process, would do so for ten minutes, until its timeout.
torch.set_num_threads(1)


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[[str], Project]:
    """Make a project that nothing has run in yet, in a new folder of the given name."""
    return lambda name: copy_repository(tmp_path / name)


@pytest.fixture(scope="session")
def first_repro(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, list[str]]:
    """A project that DVC has reproduced from nothing and is committed, and the stages that ran. Not to be changed."""

    def make(folder: Path) -> None:
        project = copy_repository(folder / "project")
        (folder / "ran.json").write_text(json.dumps(project.repro(env={"PYTHONHASHSEED": "1"})))
        project.commit()

    folder = made_once(tmp_path_factory, "first", make)
    return Project(folder / "project"), json.loads((folder / "ran.json").read_text())


@pytest.fixture
def reproduced(first_repro: tuple[Project, list[str]], tmp_path: Path) -> Project:
    """A copy of the reproduced project, to be changed."""
    folder = tmp_path / "project"
    shutil.copytree(first_repro[0].folder, folder, symlinks=True)
    return Project(folder)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the stages write from small parameters, run in this process. Not to be changed."""

    def make(folder: Path) -> None:
        write_params(folder)
        set_params(folder, SMALL)
        call_stages(folder, commands(folder))

    return made_once(tmp_path_factory, "small", make)


@pytest.fixture(scope="session")
def shippable_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `small_run`, of a net that is worth shipping. Not to be changed."""

    def make(folder: Path) -> None:
        write_params(folder)
        training = {"train.epochs": 60, "train.batch_size": 20, "train.learning_rate": 0.005}
        set_params(folder, SMALL | training)
        call_stages(folder, commands(folder))

    return made_once(tmp_path_factory, "shippable", make)


@pytest.fixture(scope="session")
def coreai_run(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run with Core AI, and a variant of each kind. Not to be changed."""
    without = why_missing("coreai_torch", "coreai_opt.casting.casting")
    if without and not os.environ.get("CI"):
        pytest.skip(without)

    def make(folder: Path) -> None:
        shutil.copytree(small_run, folder, dirs_exist_ok=True)
        variants = ["int8", "int4", "palette4", "sparse50"]
        set_params(folder, {"export.formats": ["onnx", "coreml", "coreai"], "compress_coreai.variants": variants})
        writers = ["export_coreai", "list_variants", *(f"compress_coreai@{variant}" for variant in variants)]
        call_stages(folder, [*writers, "predict@coreai", "evaluate", "verify"])

    return made_once(tmp_path_factory, "coreai", make)


@pytest.fixture
def workspace(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workspace:
    """A copy of the small run, to be changed."""
    folder = tmp_path / "workspace"
    shutil.copytree(small_run, folder)
    return Workspace(folder, monkeypatch, capsys)


@pytest.fixture
def empty_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Workspace:
    """A folder with nothing but params.yaml."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    write_params(folder)
    return Workspace(folder, monkeypatch, capsys)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put whole runs under DVC first, so that no worker is left alone with one at the end; leave out what cannot run.

    Without the runtime for browsers, which npm brings, what needs it is left out; in CI nothing is.
    """
    items.sort(key=lambda item: not {"make_project", "first_repro"} & set(getattr(item, "fixturenames", ())))
    if (ROOT / "web" / "node_modules").exists() or os.environ.get("CI"):
        return
    for item in items:
        if item.path.name == "test_web.py":
            item.add_marker(
                pytest.mark.skip(reason="onnxruntime-web is not installed; `make web` installs it, with npm")
            )

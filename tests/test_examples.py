"""The worked examples, but for the download of their recordings and the run itself."""

import zipfile
from pathlib import Path
from typing import Any

import train
from examples import run
from shared.data.sequences import Prepared
from shared.kit.params import read_params
from tests.support import ROOT, Workspace, write_pipeline

import numpy as np
import pytest
from ruamel.yaml import YAML

EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/table.py"))
CHANNELS = {"BasicMotions": 6, "JapaneseVowels": 12}


def packaged(folder: Path, name: str) -> tuple[Path, dict[str, list[Any]]]:
    """A wheel with 40 recordings of two classes, and what is in it: 3 to 6 steps of the data set's channels."""
    rng = np.random.default_rng(0)
    recordings: dict[str, list[Any]] = {}
    wheel = folder / "aeon.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for split in ("train", "test"):
            steps = rng.integers(3, 7, 20) if name == "JapaneseVowels" else np.full(20, 4)
            recordings[split] = [rng.normal(size=(count, CHANNELS[name])).round(3) for count in steps]
            lines = [
                ":".join([*(",".join(map(str, channel)) for channel in recording.T), str(number % 2)])
                for number, recording in enumerate(recordings[split])
            ]
            text = "\n".join(["#A comment", f"@problemName {name}", "@data", *lines, ""])
            archive.writestr(f"aeon/datasets/data/{name}/{name}_{split.upper()}.ts", text)
    return wheel, recordings


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_recordings_become_the_arrays_of_their_official_split(empty_workspace: Workspace, example: Path) -> None:
    table = run.load_table(example)
    wheel, recordings = packaged(empty_workspace.folder, table.DATA_SET)
    write_pipeline(empty_workspace.folder)
    run.edit_project(empty_workspace.folder, example)
    table.make_table(run.read_recordings(wheel, table.DATA_SET)).to_csv(
        empty_workspace.folder / "sequences.csv", index=False
    )

    empty_workspace.call("prepare", "sequences.csv", "prepared")

    data = Prepared(empty_workspace.folder / "prepared")
    assert data.schema.rows == {"train": 16, "validation": 4, "test": 20}
    test = data.split("test")
    lengths = test.lengths if test.lengths is not None else np.full(20, 4)
    for sequence, length, label, expected, number in zip(
        test.sequences, lengths, test.labels, recordings["test"], range(20), strict=True
    ):
        np.testing.assert_array_equal(sequence[:length], expected.astype(np.float32))
        assert not sequence[length:].any()
        assert label == number % 2
    assert data.schema.ragged == (table.DATA_SET == "JapaneseVowels")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_s_parameters_are_parameters_of_the_project(empty_workspace: Workspace, example: Path) -> None:
    def keys(section: Any, *path: str) -> set[tuple[str, ...]]:
        if not isinstance(section, dict):
            return {path}
        return {key for name, value in section.items() for key in keys(value, *path, name)}

    yaml = YAML(typ="safe")
    changes, params = (yaml.load(file) for file in (example / "params.yaml", empty_workspace.folder / "params.yaml"))
    assert keys(changes) <= keys(params)
    write_pipeline(empty_workspace.folder)
    run.edit_project(empty_workspace.folder, example)
    empty_workspace.patch.chdir(empty_workspace.folder)
    assert read_params("train", train.Params).standardize


def test_a_download_that_fails_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(run, "CACHE", tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run.find_wheel()
    message = str(stopped.value.code)
    assert message.startswith("example: error: pip cannot download what ")
    assert "aeon==1.6.0" in message
    assert "\n" not in message

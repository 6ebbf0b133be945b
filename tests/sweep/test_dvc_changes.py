"""What a trial changes in DVC: how long it takes, and not what it writes."""

import shutil
from pathlib import Path
from typing import Any

from commands.sweeps.dvc_changes import SchemaMemory, YamlMemory
from tests.support import ROOT

import pytest
from dvc.dvcfile import ProjectFile
from dvc.utils.serialize import _common, _yaml
from dvc.utils.strictyaml import YAMLValidationError
from dvc.utils.strictyaml import validate as strictyaml_validate

LONG = "python stages/train.py " + " ".join(f"data/prepared/part-{number}.npy" for number in range(20))


@pytest.fixture
def memory() -> YamlMemory:
    return YamlMemory(_yaml.parse_yaml, _yaml._dump)


def modify(path: Path, name: str, stage: Any, memory: YamlMemory | None) -> None:
    """Write a stage into a lock as DVC does, or by a memory."""
    with _common._modify_data(path, memory.parse, memory.dump) if memory else _yaml.modify_yaml(path) as data:
        data.setdefault("schema", "2.0")
        data.setdefault("stages", {})[name] = stage


def test_dvc_lock_has_the_bytes_that_dvc_writes(tmp_path: Path, memory: YamlMemory) -> None:
    expected, found = tmp_path / "expected.lock", tmp_path / "found.lock"
    shutil.copy(ROOT / "dvc.lock", expected)
    shutil.copy(ROOT / "dvc.lock", found)
    values = [
        1e-05,
        0.1,
        3,
        True,
        None,
        "yes",
        "1e-3",
        "2026-01-02",
        "a: b",
        "it's",
        "it's é\n",
        [],
        [1, "x"],
        {"a": 1},
    ]
    deps = [{"path": "data/prepared", "md5": f"{'0' * 32}.dir", "size": 1}]
    params = {f"train.key{number}": value for number, value in enumerate(values)}
    for name in ("train", "predict@new", "train"):
        params |= {"train.name": name}
        stage = {"cmd": LONG, "deps": deps, "params": {"params.yaml": dict(params)}}
        modify(expected, name, stage, None)
        modify(found, name, stage, memory)
        assert found.read_bytes() == expected.read_bytes()
    assert memory.parse(found.read_text(), "dvc.lock") == _yaml.parse_yaml(expected.read_text(), "dvc.lock")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "schema: '2.0'\n",
        "schema: '2.0'\nstages:\n",
        "schema: '2.0'\nstages: {}\n",
        "stages:\n  train:\n    cmd: a\nschema: '2.0'\n",
        "schema: '2.0'\nstages:\n  train: &one\n    cmd: a\n  predict: *one\n",
        "schema: '2.0'\nstages:\n  # of a person\n  train:\n    cmd: a\n",
        "schema: '2.0'\nstages:\n  train:\n    cmd: a\ndatasets: []\n",
        "schema: '2.0'\nstages:\n  - train\n",
        "section: {key: [1, 2]}\n",
    ],
)
def test_whatever_a_text_is_it_says_what_dvc_reads(memory: YamlMemory, text: str) -> None:
    expected = _yaml.parse_yaml(text, "dvc.lock")
    first = memory.parse(text, "dvc.lock")
    assert first == expected
    first["stages"] = "changed by whoever has it"
    assert memory.parse(text, "dvc.lock") == expected


def test_a_text_is_held_to_its_schema_once_and_a_wrong_one_each_time() -> None:
    asked = []

    def validate(data: Any, schema: Any, **where: Any) -> Any:
        asked.append(where["text"])
        return strictyaml_validate(data, schema, **where)

    memory = SchemaMemory(validate)
    text = (ROOT / "dvc.yaml").read_text()
    data = _yaml.parse_yaml(text, "dvc.yaml")
    expected = strictyaml_validate(data, ProjectFile.SCHEMA, text=text, path="dvc.yaml")
    for _ in range(2):
        found = memory.validate(data, ProjectFile.SCHEMA, text=text, path="dvc.yaml")
        assert found == expected
        found["stages"].clear()  # by whoever has it
    assert asked == [text]
    wrong = "stages: 1"
    for _ in range(2):
        with pytest.raises(YAMLValidationError):
            memory.validate({"stages": 1}, ProjectFile.SCHEMA, text=wrong, path="dvc.yaml")
    assert asked == [text, wrong, wrong]


def test_a_damaged_text_is_told_as_by_dvc(memory: YamlMemory) -> None:
    twice = "  train:\n    cmd: a\n" * 2
    for text in ("schema: '2.0'\nstages:\n  train: {\n", f"schema: '2.0'\nstages:\n{twice}", "a: [\n"):
        with pytest.raises(_yaml.YAMLFileCorruptedError, match=r"dvc\.lock"):
            memory.parse(text, "dvc.lock")

"""Arguments, one-line errors, and outputs that appear whole or not at all."""

import os
import sys
from pathlib import Path

from shared.stage import StageError, parse_args, replacing, rounded, run, write_bytes, write_json

import pytest


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_output_is_replaced_only_when_it_is_complete(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out.mlpackage"

    def write(target: Path, text: str) -> None:
        if kind == "folder":
            target.mkdir()
            target = target / "content"
        target.write_text(text)

    def read() -> str:
        return (path / "content" if kind == "folder" else path).read_text()

    with replacing(path) as beside:
        write(beside, "first")
        assert not path.exists()
    assert read() == "first"

    def fail_halfway() -> None:
        with replacing(path) as beside:
            write(beside, "second")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail_halfway()
    assert read() == "first"

    with replacing(path) as beside:
        write(beside, "third")
        assert read() == "first"
    assert read() == "third"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mlpackage"]


def test_the_file_beside_has_the_suffix_that_writers_look_at(tmp_path: Path) -> None:
    with replacing(tmp_path / "model.mlpackage") as beside:
        assert beside.parent == tmp_path
        assert beside.suffix == ".mlpackage"
        beside.touch()


def test_a_read_only_link_into_the_cache_is_replaced_and_not_written_into(tmp_path: Path) -> None:
    cached, path = tmp_path / "cached", tmp_path / "out"
    cached.write_bytes(b"cached")
    cached.chmod(0o444)
    for link in (os.symlink, os.link):
        link(cached, path)
        write_bytes(path, b"new")
        assert not path.is_symlink()
        assert (path.read_bytes(), cached.read_bytes()) == (b"new", b"cached")
        path.unlink()


def test_a_linked_folder_is_replaced_and_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "cached").mkdir()
    (tmp_path / "cached" / "file").touch()
    (tmp_path / "out").symlink_to(tmp_path / "cached")
    with replacing(tmp_path / "out") as beside:
        beside.mkdir()
    assert (tmp_path / "cached" / "file").exists()
    assert list((tmp_path / "out").iterdir()) == []


def test_json_is_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "good.json", {"class": "Größe", "value": 1e-5})
    assert (tmp_path / "good.json").read_text(encoding="utf-8") == '{\n  "class": "Größe",\n  "value": 1e-05\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "bad.json", {"value": float("nan")})
    assert not (tmp_path / "bad.json").exists()


def test_an_error_of_the_user_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def main() -> None:
        raise StageError("table.csv: no rows")

    monkeypatch.setattr(sys, "argv", ["stages/prepare.py"])
    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "prepare: error: table.csv: no rows\n"


def test_an_error_of_ours_keeps_its_traceback() -> None:
    def main() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run(main)


def test_arguments_are_inputs_then_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.csv").touch()
    monkeypatch.setattr(sys, "argv", ["stage.py", "in.csv", "deep/er/out.csv"])
    args = parse_args("What it does", inputs={"table": "a table"}, outputs={"result": "the result"})
    assert (args.table, args.result) == (Path("in.csv"), Path("deep/er/out.csv"))
    assert [path.name for path in Path("deep/er").iterdir()] == []


def test_a_missing_input_is_named_and_no_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stage.py", "in.csv", "deep/out.csv"])
    with pytest.raises(StageError, match=r"^in\.csv: no such file or folder \(expected a table\); `dvc repro`"):
        parse_args("What it does", inputs={"table": "a table"}, outputs={"result": "the result"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("value", "digits", "expected"), [(0.123456789, 6, 0.123457), (1234.5678, 3, 1230), (0, 6, 0)])
def test_figures_keep_their_significant_digits(value: float, digits: int, expected: float) -> None:
    assert rounded(value, digits) == expected

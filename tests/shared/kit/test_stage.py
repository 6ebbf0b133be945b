"""Arguments, one-line errors, and outputs that appear whole or not at all."""

import errno
import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from shared.kit.stage import (
    StageError,
    check_archive,
    machine_fault,
    parse_args,
    read_json,
    read_table,
    reading,
    release_outputs,
    replacing,
    rounded,
    run,
    write_bytes,
    write_json,
    write_table,
)
from tests.support import ROOT, clean_environment

import pytest


@pytest.fixture(autouse=True)
def _outputs_are_released() -> Iterator[None]:
    yield
    release_outputs()


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


def test_it_is_made_on_the_same_disk_under_the_name_that_writers_look_at(tmp_path: Path) -> None:
    with replacing(tmp_path / "model.mlpackage") as beside:
        assert beside.name == "model.mlpackage"
        assert tmp_path in beside.parents
        [hidden] = tmp_path.iterdir()
        assert hidden.name == ".model.mlpackage.unfinished"
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


class Measured(NamedTuple):
    name: str
    rows: int
    share: float


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [Measured("None", 2, 0.1 + 0.2), Measured('a "class", or\ntwo', -1, 1e-07), Measured("", 0, 3.0)]
    write_table(tmp_path / "table.csv", ("share", "unused", "rows", "name"), [(s, "x", n, name) for name, n, s in rows])
    assert read_table(tmp_path / "table.csv", Measured) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable table: "),
        (b"name,rows\n", "column 'share' is missing; found name, rows"),
        (b"name,rows,share\na,1.5,1\n", "not a readable table: invalid literal for int"),
        (b"name,rows,share\na,1\n", "not a readable table: IndexError: "),
        (b"name,rows,share\n\xff,1,1\n", "not a readable table: 'utf-8' codec"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(StageError) as error:
        read_table(path, Measured)
    assert str(error.value).startswith(f"{path}: {message}")


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
    assert [path.name for path in Path("deep/er").iterdir()] == [".out.csv.unfinished"]
    release_outputs()
    assert list(Path("deep/er").iterdir()) == []


@pytest.mark.parametrize(("given", "expected"), [([], None), (["more.csv"], Path("more.csv"))])
def test_an_output_may_be_left_to_whoever_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], expected: Path | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stage.py", "out.csv", *given])
    args = parse_args("What it does", inputs={}, outputs={"result": "the result", "more?": "what else there is"})
    assert (args.result, args.more) == (Path("out.csv"), expected)
    assert len(list(tmp_path.iterdir())) == 1 + len(given)
    release_outputs()


def test_a_missing_input_is_named_and_no_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stage.py", "in.csv", "deep/out.csv"])
    with pytest.raises(StageError, match=r"^in\.csv: no such file or folder \(expected a table\); `dvc repro`"):
        parse_args("What it does", inputs={"table": "a table"}, outputs={"result": "the result"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("value", "digits", "expected"), [(0.123456789, 6, 0.123457), (1234.5678, 3, 1230), (0, 6, 0)])
def test_figures_keep_their_significant_digits(value: float, digits: int, expected: float) -> None:
    assert rounded(value, digits) == expected


# --- what is in progress, and who else writes ---

HOLD = """
import sys, time
from shared.kit.stage import parse_args, replacing, run
def main():
    args = parse_args("", inputs={}, outputs={"result": "the result"})
    with replacing(args.result) as path:
        path.write_text("half")
        print("writing", flush=True)
        time.sleep(60)
run(main)
"""


@pytest.fixture
def other_run(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in another process that is writing `out.csv` and does not end."""
    environment = clean_environment() | {"PYTHONPATH": str(ROOT / "stages")}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, "out.csv"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_two_runs_do_not_write_the_same_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_run: subprocess.Popen[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stage.py", "out.csv"])
    message = rf"^out\.csv: another run \(process {other_run.pid}\) is writing it; wait until it ends, or end it$"
    with pytest.raises(StageError, match=message):
        parse_args("", inputs={}, outputs={"result": "the result"})
    write_bytes(Path("other.csv"), b"another output")
    assert (tmp_path / ".out.csv.unfinished" / "new" / "out.csv").read_text() == "half"


def test_what_a_killed_run_has_left_is_deleted_by_the_next(tmp_path: Path, other_run: subprocess.Popen[str]) -> None:
    (tmp_path / "out.csv").write_text("earlier")
    other_run.kill()
    other_run.wait()
    assert (tmp_path / "out.csv").read_text() == "earlier"
    write_bytes(tmp_path / "out.csv", b"whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out.csv": "whole"}


@pytest.mark.parametrize(("found", "expected"), [("folder", "file"), ("file", "folder")])
def test_a_folder_where_a_file_goes_is_refused_and_not_deleted(tmp_path: Path, found: str, expected: str) -> None:
    path = tmp_path / "out"
    content = path / "thesis.txt" if found == "folder" else path
    content.parent.mkdir(exist_ok=True)
    content.write_text("years of work")

    def write() -> None:
        with replacing(path) as beside:
            beside.mkdir() if expected == "folder" else beside.touch()

    with pytest.raises(StageError, match=rf"/out: found a {found} where a {expected} goes; move it away$"):
        write()
    assert content.read_text() == "years of work"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (".", r"^\.: the current folder lies in it"),
        ("..", r"^\.\.: the current folder lies in it"),
        ("data", r"^data: is to be written, but data/in\.csv, which this stage needs, would be lost"),
        ("data/in.csv", r"^data/in\.csv: is to be written, but data/in\.csv, which"),
        ("first.csv", r"^first\.csv: is to be written, but first\.csv"),
    ],
)
def test_an_output_that_would_take_the_place_of_what_is_needed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/in.csv").touch()
    monkeypatch.setattr(sys, "argv", ["stage.py", "data/in.csv", "first.csv", output])
    with pytest.raises(StageError, match=message):
        parse_args("", inputs={"table": "a table"}, outputs={"first": "", "second": ""})
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_in_the_second_output_s_place_is_found_before_the_first_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("second.json").mkdir()
    monkeypatch.setattr(sys, "argv", ["stage.py", "first.pt", "second.json"])
    with pytest.raises(StageError, match=r"^second\.json: found a folder where a file goes; move it away$"):
        parse_args("", inputs={}, outputs={"first": "", "second": ""})
    assert [path.name for path in tmp_path.iterdir()] == ["second.json"]


@pytest.mark.parametrize("paths", [["in\udcff.csv", "out"], ["in.csv", "out\udcff"]])
def test_a_path_that_is_not_utf_8_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.csv").touch()
    monkeypatch.setattr(sys, "argv", ["stage.py", *paths])
    with pytest.raises(StageError, match="a path that is not UTF-8"):
        parse_args("", inputs={"table": "a table"}, outputs={"result": ""})
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_the_processes_of_one_training_do_not_keep_each_other_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stage.py", "out"])
    monkeypatch.setenv("RANK", "1")
    parse_args("", inputs={}, outputs={"result": ""})
    assert list(tmp_path.iterdir()) == []


# --- what the machine is to blame for ---


def test_an_error_of_the_system_is_one_line_that_names_the_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["stage.py"])

    def main() -> None:
        (tmp_path / "none").read_bytes()

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 1
    assert capsys.readouterr().err == f"stage: error: {tmp_path}/none: No such file or directory\n"


def test_a_write_that_fails_names_the_output_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("earlier")

    def write() -> None:
        with replacing(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as `write` raises it: without a name

    with pytest.raises(StageError, match=r"/out\.csv: not written: No space left on device$") as error:
        write()
    assert machine_fault(error.value) is error.value.__cause__
    assert path.read_text() == "earlier"


def test_what_the_machine_is_to_blame_for_is_found_behind_a_loaders_own_error() -> None:
    def load(fault: Exception) -> StageError:
        try:
            try:
                raise fault
            except Exception as error:
                raise StageError(f"model.onnx: not a readable file: {error}") from None
        except StageError as error:
            return error

    for fault in (PermissionError(errno.EACCES, "Permission denied"), MemoryError()):
        assert machine_fault(load(fault)) is fault
    for damage in (ValueError("truncated"), FileNotFoundError(errno.ENOENT, "No such file"), RuntimeError("bad")):
        assert machine_fault(load(damage)) is None


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff{}", b'{"a":' * 50_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_json_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(StageError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_message_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def main() -> None:
        raise StageError("found 'walk\x1b[2J\nprepare: all is well'")

    monkeypatch.setattr(sys, "argv", ["stage.py"])
    with pytest.raises(SystemExit):
        run(main)
    assert capsys.readouterr().err == "stage: error: found 'walk\\x1b[2J\\nprepare: all is well'\n"


def test_help_fills_paragraphs_and_keeps_lists_as_lists(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    description = """Do what its name says.

A paragraph that is longer
than a line of forty.

    fp16    half precision
    int8    integers of eight bits, and
            their scales

- `one`: a first item that is longer
  than a line
- `two`: a second item"""
    monkeypatch.setattr(sys, "argv", ["stage.py", "--help"])
    monkeypatch.setenv("COLUMNS", "36")
    with pytest.raises(SystemExit):
        parse_args(description, inputs={}, outputs={})
    shown = capsys.readouterr().out.partition("\n\n")[2]
    assert shown.startswith("""Do what its name says.

A paragraph that is longer
than a line of forty.

    fp16    half precision
    int8    integers of eight
            bits, and their scales

- `one`: a first item that is
  longer than a line
- `two`: a second item
""")


@pytest.mark.parametrize("megabytes", [100, 1000])
def test_a_process_with_too_little_memory_ends_with_one_line(megabytes: int, tmp_path: Path) -> None:
    """With 100 MB numpy's BLAS asks for memory for ever; with some more, libraries fail to be loaded."""
    stage = shlex.join([sys.executable, str(ROOT / "stages" / "evaluate.py"), *"abcd"])
    command = f"ulimit -v {megabytes * 1000}; exec {stage}"
    ended = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("evaluate: error: this process may use ")
    assert ended.stderr.count("\n") == 1


GARBAGE = """
import atexit, gc, sys
atexit.register(lambda: print("end", gc.get_freeze_count() > frozen))
sys.path.insert(0, "stages")
sys.argv = ["stages/probe.py"]
from shared.execution.isolation import Limits, call_apart
from shared.kit import importing
from shared.kit.stage import run
print("imports", gc.isenabled())

def main():
    global frozen
    frozen = gc.get_freeze_count()
    print("main", gc.isenabled(), frozen > 10_000)
    for start_method in ("fork", "spawn"):
        print(start_method, call_apart(gc.isenabled, what="x", limits=Limits(60), start_method=start_method))
    for _ in range(2):  # the second time nothing comes
        before = gc.get_freeze_count()
        with importing():
            import wave
            print("importing", gc.isenabled())
        print("work", gc.isenabled(), gc.get_freeze_count() > before)

run(main)
"""


def test_garbage_is_looked_for_in_what_a_stage_makes_alone() -> None:
    """Not in what its libraries bring, nor at its end: that took a quarter of its time."""
    script = [sys.executable, "-c", GARBAGE]
    ended = subprocess.run(script, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == [
        "imports False", "main True True", "fork True", "spawn True",
        "importing False", "work True True", "importing False", "work True False", "end True",
    ]  # fmt: skip


# --- reading ---


def nested() -> None:
    nested()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda: os.environ["NO_KEY"], "KeyError: 'NO_KEY'"),
        (lambda: [][5], "IndexError: list index out of range"),
        (lambda: None.name, "AttributeError: 'NoneType' object has no attribute 'name'"),  # type: ignore[attr-defined]
        (lambda: int("x"), "invalid literal for int"),
        (lambda: b"\xff".decode(), "'utf-8' codec can't decode byte 0xff"),
        (nested, "it is nested too deeply"),
        (lambda: bytearray(2**60), "it needs more memory than there is"),
        (lambda: Path("a" * 5000).read_bytes(), "File name too long"),
        (lambda: int("\n".join("x" * 900)), "invalid literal"),
    ],
)
def test_whatever_a_library_raises_over_a_file_is_one_line(fault: Callable[[], object], message: str) -> None:
    with pytest.raises(StageError) as caught, reading(Path("models/x.onnx"), "ONNX file", "; run `dvc repro`"):
        fault()
    assert str(caught.value).startswith(f"models/x.onnx: not a readable ONNX file: {message}")
    assert str(caught.value).endswith("; run `dvc repro`")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_archive_that_unpacks_to_more_than_it_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10**6))
    with pytest.raises(ValueError, match=r"a zip archive of \d+ bytes that would unpack to 1000000"):
        check_archive(tmp_path / "bomb")
    (tmp_path / "none").write_bytes(b"PK")
    with pytest.raises(ValueError, match="not a complete zip archive"):
        check_archive(tmp_path / "none")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(os.devnull)], ids=["pipe", "device"])
def test_an_output_takes_no_pipe_s_or_device_s_place(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "out.csv"
    make(path)
    with pytest.raises(StageError, match=r"out\.csv: found a pipe or a device where an output goes"):
        write_bytes(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]

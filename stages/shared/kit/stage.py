"""What makes a script a stage: its arguments, its one-line errors, and outputs that appear whole or not at all."""

import argparse
import csv
import errno
import fcntl
import io
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import textwrap
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from shared.kit import begin_work
from shared.kit.text import printable


class StageError(Exception):
    """An error that a user can cause and mend: one line that says what was found, where, and what is allowed."""


MACHINE_ERRORS = {
    getattr(errno, name)
    for name in ("EACCES", "EDQUOT", "EFBIG", "EIO", "EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EPERM", "EROFS")
}
LONGEST_MESSAGE = 300
FOLDERS = ("", ".mlpackage", ".aimodel")
"""Suffixes of outputs that are folders."""
LARGEST_FILE = 2**31 - 1
"""Bytes of a file that is read as a whole: the limit of protobuf, in which models are saved."""
NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory|bad_alloc", re.IGNORECASE)
NO_DISK = re.compile("filesystem error|FileWriter|file write failed|No space left", re.IGNORECASE)
"""What torch and coremltools say, as RuntimeError."""


def machine_fault(error: BaseException | None) -> BaseException | None:
    """What the machine is to blame for in an error: a full disk, a missing permission, too little memory.

    Also where a loader has turned it into an error of its own, as `raise StageError(...) from error` or `from None`.

    Returns:
        The first such error that this one goes back to; None if there is none.
    """
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in MACHINE_ERRORS):
            return error
        if isinstance(error, RuntimeError) and (NO_MEMORY.search(str(error)) or NO_DISK.search(str(error))):
            return error
        error = error.__cause__ or error.__context__
    return None


def one_line(error: Exception) -> str:
    """A library's message, however many lines it has and however long it is, as part of a `StageError`'s one."""
    from pydantic import ValidationError

    text = str(error)
    if isinstance(error, ValidationError):
        text = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".lstrip(": ") for one in error.errors())
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}…"


@contextmanager
def reading(path: Path, what: str, advice: str = "") -> Iterator[None]:
    """Turn whatever a library raises over a file's content into one line that names the file.

    Libraries' exceptions have no common base, and damage finds those that nobody thought of, so each format's reader
    puts all that it does with a file below this, once.

    Args:
        path: The file that is read.
        what: What it should be, such as "ONNX file".
        advice: What to do about it, after a semicolon.

    Raises:
        StageError: There is no such file, it is not what it should be, or the machine does not let it be read; the last
            is told by `machine_fault`.
    """
    try:
        yield
    except StageError:
        raise
    except OSError as error:
        raise StageError(f"{path}: not a readable {what}: {error.strerror or one_line(error)}{advice}") from error
    except MemoryError as error:
        raise StageError(f"{path}: not a readable {what}: it needs more memory than there is{advice}") from error
    except RecursionError:
        raise StageError(f"{path}: not a readable {what}: it is nested too deeply{advice}") from None
    except Exception as error:  # what a library raises has no common base
        found = one_line(error) or "it ends too early"
        kind_of = f"{type(error).__name__}: " if isinstance(error, LookupError | AttributeError | TypeError) else ""
        raise StageError(f"{path}: not a readable {what}: {kind_of}{found}{advice}") from error


def size_of(path: Path) -> int:
    """The size of a regular file, below `reading`: of a pipe or a device there is no end.

    Raises:
        OSError: There is no such file, or it is none of that kind.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return status.st_size


def read_bytes(path: Path) -> bytes:
    """The content of a file, below `reading`.

    Raises:
        OSError: It cannot be read, or is no regular file.
        ValueError: It is larger than any file that is read as a whole can be.
    """
    size = size_of(path)
    if size > LARGEST_FILE:
        raise ValueError(f"{size} bytes; at most {LARGEST_FILE} are possible")
    return path.read_bytes()


def check_archive(path: Path) -> None:
    """Check that a file is a zip that unpacks to no more than it holds, below `reading`.

    Raises:
        OSError: It cannot be read, or is no regular file.
        ValueError: It is no such zip.
    """
    size = size_of(path)
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"not a complete zip archive ({error})") from None
    if unpacked > size:
        raise ValueError(f"a zip archive of {size} bytes that would unpack to {unpacked}")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Fills the paragraphs of a docstring, and leaves its lists and tables as they are where they fit."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002 - argparse calls it
        return "\n\n".join(self._fill_paragraph(paragraph, width) for paragraph in text.split("\n\n"))

    @staticmethod
    def _fill_paragraph(paragraph: str, width: int) -> str:
        lines = paragraph.splitlines()
        if all(len(line) <= width for line in lines):
            return paragraph
        items: list[str] = []
        for line in lines:
            column = line.rpartition("  ")[0]  # of a table, up to its last column
            begins = not items or line.startswith("- ") or (line.startswith("    ") and column.strip())
            items = [*items, line] if begins else [*items[:-1], f"{items[-1]} {line.strip()}"]
        filled = []
        for item in items:
            columns = re.match(r"- |\s+\S+\s{2,}|\s*", item)
            hanging = " " * (columns.end() if columns else 0)
            filled.append(textwrap.fill(item, width, subsequent_indent=hanging, break_on_hyphens=False))
        return "\n".join(filled)


def parse_args(description: str | None, inputs: dict[str, str], outputs: dict[str, str]) -> argparse.Namespace:
    """Read a stage's positional paths: inputs, then outputs; keep other runs off the outputs until `run` ends.

    Args:
        description: The script's docstring, shown by `--help`.
        inputs: Argument name to its meaning. Each must exist.
        outputs: Argument name to its meaning. The folder of each is made. Whoever gives no place for one with a `?` at
            the end of its name does not want it.

    Returns:
        A namespace with a `Path` for each name; without a `?`, and None if it was not given.

    Raises:
        StageError: An input does not exist, a path is not UTF-8, an output would take something else's place, or
            another run writes it.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=_Help)
    for name, meaning in (inputs | outputs).items():
        parser.add_argument(name.removesuffix("?"), type=Path, help=meaning, nargs="?" if name.endswith("?") else None)
    args = parser.parse_args()
    for name, meaning in inputs.items():
        path: Path = getattr(args, name)
        _check_name(path)
        if not path.exists():
            raise StageError(
                f"{path}: no such file or folder (expected {meaning}); `dvc repro` or `dvc pull` brings it"
            )
    given: list[Path | None] = [getattr(args, name.removesuffix("?")) for name in outputs]
    paths = [path for path in given if path is not None]
    for index, path in enumerate(paths):
        _check_place(path, [getattr(args, name) for name in inputs], paths[:index])
    for path in paths:
        _check_name(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.environ.get("RANK", "0") == "0":  # of the processes that `torchrun` starts, the first one writes
            _reserve(path)
    return args


def _check_name(path: Path) -> None:
    """Refuse a path that is not UTF-8: the libraries that read and write tables and models take no other."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise StageError(f"{path}: a path that is not UTF-8") from None


def _check_place(path: Path, inputs: list[Path], earlier: list[Path]) -> None:
    """Refuse an output that would replace the folder this runs in, an input or another output."""
    place = path.resolve()
    if Path.cwd().is_relative_to(place):
        raise StageError(f"{path}: the current folder lies in it; an output is replaced as a whole")
    if path.is_dir() and path.suffix not in FOLDERS:  # before hours of work, and before the first output is written
        raise StageError(f"{path}: found a folder where a file goes; move it away")
    for other in (*inputs, *earlier):
        if other.resolve().is_relative_to(place):
            raise StageError(f"{path}: is to be written, but {other}, which this stage needs, would be lost")


def run(main: Callable[[], None]) -> None:
    """Call `main`; what a user or the machine is to blame for becomes one line on stderr and exit code 1.

    All else is a bug, and keeps its traceback. Ctrl-C: see `shared`.
    """
    begin_work()
    try:
        main()
    except (StageError, OSError, MemoryError, RuntimeError) as error:
        message = _explain(error)
        if message is None:
            raise
        print(f"{printable(Path(sys.argv[0]).stem)}: error: {printable(message)}", file=sys.stderr)
        sys.exit(1)
    finally:
        release_outputs()


def _explain(error: BaseException) -> str | None:
    """An error in words; None for one that nobody but us is to blame for."""
    if isinstance(error, StageError):
        return str(error)
    written = next(iter(_reserved), None)
    if isinstance(error, OSError):
        path = _path_of(error) or written
        return f"{path}: {error.strerror or one_line(error)}" if path else one_line(error)
    if machine_fault(error) is None:
        return None
    what = one_line(error) if isinstance(error, Exception) else ""
    if NO_DISK.search(what):
        return f"{written}: not written, or a temporary file in {tempfile.gettempdir()}: {what}"
    return f"{written}: not written: not enough memory{f' ({what})' if what else ''}"


def _path_of(error: OSError) -> Path | None:
    """The file that an error of the system is about, if it says so."""
    return Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None


# --- Outputs: each is made in a hidden folder beside its place, which one process holds at a time ---

UNFINISHED = ".unfinished"
"""What these folders' names end in: .dvcignore and .gitignore leave them out, so no stage sees what is in progress."""

_reserved: dict[Path, "_Unfinished"] = {}


class _Unfinished:
    """The folder in which an output is made, locked for as long as this is open.

    The lock is the kernel's: it ends with the process, whatever ends it. What a killed run has left is deleted then.

    Raises:
        StageError: Another process holds it, it cannot be made, or its place is taken by what is no file or folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.with_name(f".{path.name}{UNFINISHED}")
        self._lock = self.folder / "lock"
        try:
            if path.exists() and not path.is_file() and not path.is_dir():
                raise StageError(f"{path}: found a pipe or a device where an output goes")
            while not self._hold():
                pass
            self.clear()
        except OSError as error:
            raise StageError(f"{path}: not written: {error.strerror}") from error
        with suppress(OSError):  # a full disk: then others learn less about who holds it
            os.truncate(self.lock_file, 0)
            os.write(self.lock_file, str(os.getpid()).encode())

    def _hold(self) -> bool:
        """Take the lock; False if the run that had it has just deleted it."""
        self.folder.mkdir(exist_ok=True)
        try:
            self.lock_file = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self.lock_file, 20).decode() or "?"
            os.close(self.lock_file)
            raise StageError(
                f"{self.path}: another run (process {holder}) is writing it; wait until it ends, or end it"
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self.lock_file), self._lock.stat()):
                return True
        os.close(self.lock_file)
        return False

    def clear(self) -> None:
        """Delete everything but the lock."""
        for name in ("new", "old"):
            remove(self.folder / name)

    def make(self) -> Path:
        """A path to make the output at, with the name that it will have; its folder is empty."""
        self.clear()
        (self.folder / "new").mkdir()
        return self.folder / "new" / self.path.name

    def put_in_place(self) -> None:
        """Let the output take its place: at no moment is there half of it, and what was there stays if this fails.

        Raises:
            StageError: There is a folder in place of a file, or the other way round.
        """
        new, old = self.folder / "new" / self.path.name, self.folder / "old"
        if self.path.is_symlink() or not self.path.exists():
            self.path.unlink(missing_ok=True)  # a link into DVC's cache
        elif self.path.is_dir() != new.is_dir():
            found, expected = ("folder", "file") if self.path.is_dir() else ("file", "folder")
            raise StageError(f"{self.path}: found a {found} where a {expected} goes; move it away")
        elif new.is_dir():
            self.path.rename(old)
            try:
                new.rename(self.path)
            except OSError:
                old.rename(self.path)
                raise
            return
        new.replace(self.path)

    def close(self) -> None:
        """Delete the folder, then let go of the lock."""
        self.clear()
        with suppress(OSError):  # another run has made it anew
            self._lock.unlink()
            self.folder.rmdir()
        os.close(self.lock_file)


def _reserve(path: Path) -> None:
    """Hold an output's place until `release_outputs`."""
    _reserved[path] = _Unfinished(path)


def release_outputs() -> None:
    """Let go of the outputs that `parse_args` has reserved, and delete what is unfinished."""
    while _reserved:
        _, unfinished = _reserved.popitem()
        with suppress(OSError):  # a folder that has become read-only: the next run deletes the rest
            unfinished.close()


def _forget_outputs() -> None:
    """In a process that was forked: what the other one holds is not held twice, or it would outlive it."""
    for unfinished in _reserved.values():
        os.close(unfinished.lock_file)
    _reserved.clear()


os.register_at_fork(after_in_child=_forget_outputs)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to make a file or a folder at; it takes the place of `path` only if nothing was raised.

    DVC may have checked `path` out as a read-only link into its cache, so it is replaced and never written into.

    Raises:
        StageError: It could not be written, such as for a full disk; or there is a folder in place of a file.
    """
    unfinished = _reserved.get(path) or _Unfinished(path)
    try:
        yield unfinished.make()
        unfinished.put_in_place()
    except OSError as error:
        found = _path_of(error)
        if found and not found.is_relative_to(unfinished.folder):
            raise
        raise StageError(f"{path}: not written: {error.strerror or one_line(error)}") from error
    finally:
        with suppress(OSError):  # as in `release_outputs`
            unfinished.clear() if path in _reserved else unfinished.close()


def remove(path: Path) -> None:
    """Delete a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all."""
    with replacing(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path, data: Any) -> None:
    """Write strict JSON (no NaN), indented for people and for `git diff`."""
    text = json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes(path, f"{text}\n".encode())


def write_metrics(path: Path, data: Any) -> None:
    """Write JSON that people look at, in a terminal too: text in it steers nothing."""
    write_json(path, _all_printable(data))


def _all_printable(data: Any) -> Any:
    if isinstance(data, dict):
        return {printable(str(name)): _all_printable(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_all_printable(value) for value in data]
    return printable(data) if isinstance(data, str) else data


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a small table as CSV: a line of names, then the rows; numbers with all the digits that they need."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(columns)
    lines.writerows(rows)
    write_bytes(path, text.getvalue().encode())


Row = TypeVar("Row", bound=tuple[Any, ...])


def read_table(path: Path, kind: type[Row]) -> list[Row]:
    """Read a small table that `write_table` wrote, or another CSV file with a line of names.

    Args:
        path: Of the file.
        kind: A `NamedTuple` of what each row holds: `str`, `int` and `float` by the names of the columns. What other
            columns hold is left out.

    Raises:
        StageError: It cannot be read, a column is missing, or holds something else.
    """
    types: dict[str, Callable[[str], Any]] = get_type_hints(kind)
    with reading(path, "table"):
        lines = csv.reader(io.StringIO(read_bytes(path).decode()), strict=True)
        names = next(lines)
        missing = [name for name in types if name not in names]
        if missing:
            raise StageError(f"{path}: column {missing[0]!r} is missing; found {', '.join(names)}")
        columns = [(names.index(name), convert) for name, convert in types.items()]
        return [kind(*(convert(line[index]) for index, convert in columns)) for line in lines if line]


def read_json(path: Path) -> dict[str, Any]:
    """Read a metrics file.

    Raises:
        StageError: It cannot be read, or is not a JSON object.
    """
    with reading(path, "JSON file"):
        content = json.loads(read_bytes(path))
    if not isinstance(content, dict):
        raise StageError(f"{path}: found a JSON {type(content).__name__}; expected an object")
    return content


def rounded(value: float, digits: int = 6) -> float:
    """Round to significant digits: as many as a figure in a metrics file deserves."""
    return float(f"{value:.{digits}g}")

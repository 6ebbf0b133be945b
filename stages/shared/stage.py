"""What makes a script a stage: its arguments, its one-line errors, and outputs that appear whole or not at all."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class StageError(Exception):
    """An error that a user can cause and mend: one line that says what was found, where, and what is allowed."""


def one_line(error: Exception) -> str:
    """A library's message, however many lines it has, as part of a `StageError`'s one."""
    return " ".join(str(error).split())


def parse_args(description: str | None, inputs: dict[str, str], outputs: dict[str, str]) -> argparse.Namespace:
    """Read a stage's positional paths: inputs, then outputs.

    Args:
        description: The script's docstring, shown by `--help`.
        inputs: Argument name to its meaning. Each must exist.
        outputs: Argument name to its meaning. The folder of each is made.

    Returns:
        A namespace with a `Path` for each name.

    Raises:
        StageError: An input does not exist.
    """
    parser = argparse.ArgumentParser(description=description)
    for name, meaning in (inputs | outputs).items():
        parser.add_argument(name, type=Path, help=meaning)
    args = parser.parse_args()
    for name, meaning in inputs.items():
        path: Path = getattr(args, name)
        if not path.exists():
            raise StageError(
                f"{path}: no such file or folder (expected {meaning}); `dvc repro` or `dvc pull` brings it"
            )
    for name in outputs:
        getattr(args, name).parent.mkdir(parents=True, exist_ok=True)
    return args


def run(main: Callable[[], None]) -> None:
    """Call `main`; a `StageError` becomes one line on stderr and exit code 1."""
    try:
        main()
    except StageError as error:
        print(f"{Path(sys.argv[0]).stem}: error: {error}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or a folder at; rename it to `path` only if nothing was raised.

    DVC may have checked `path` out as a read-only link into its cache, so it is replaced and never written into.
    """
    beside = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield beside
        remove(path)
        beside.rename(path)
    finally:
        remove(beside)


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


def read_json(path: Path) -> dict[str, Any]:
    """Read a metrics file.

    Raises:
        StageError: It is not a JSON object.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise StageError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise StageError(f"{path}: found a JSON {type(content).__name__}; expected an object")
    return content


def rounded(value: float, digits: int = 6) -> float:
    """Round to significant digits: as many as a figure in a metrics file deserves."""
    return float(f"{value:.{digits}g}")

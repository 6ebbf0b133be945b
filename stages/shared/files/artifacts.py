"""Where the files of each format and precision lie, and which of them count.

    models/<format>/classifier-<precision>.<suffix>    models/onnx/classifier-fp32.onnx
    models/<format>/variants.json                      the compressed variants that params.yaml lists
    data/predictions/<format>/<precision>.npy          its logits on the test split
    data/predictions/<format>/<precision>.json         how it was executed

Figures nest in the same order: `{"onnx": {"fp32": {"accuracy": 0.96}}}`.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from shared.files.formats import SUFFIXES, format_of
from shared.kit.stage import StageError, read_json, remove, replacing, write_json

LIST = "variants.json"
NOTE = "This format is left out: {}\n"
NOTED = re.compile(NOTE.format(r"([ -~]+)"))
LONGEST_NOTE = 1000  # bytes
BY_CHOICE = "export.formats in params.yaml names those that are written."


def find_artifacts(folder: Path) -> dict[str, Path]:
    """Every file of a known format in a folder, by precision, sorted: a file without one in its name is fp32."""
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix in SUFFIXES.values() and not path.name.startswith(".") and not is_left_out(path)
    )
    return {precision_of(path): path for path in files}


def write_left_out(path: Path, reason: str = BY_CHOICE) -> None:
    """Write a note in place of a file whose format is left out: DVC wants every output to be there."""
    known = format_of(path.suffix)
    with replacing(path) as beside:
        if known and known.is_folder:
            beside.mkdir()
        _note_in(beside).write_text(NOTE.format(reason))


def is_left_out(path: Path) -> bool:
    """Whether a file of a format is such a note, and no model."""
    return why_left_out(path) is not None


def why_left_out(path: Path) -> str | None:
    """What such a note says; None if the file is none."""
    note = _note_in(path)
    if not note.is_file() or note.stat().st_size > LONGEST_NOTE:
        return None
    found = NOTED.fullmatch(note.read_bytes().decode(errors="replace"))
    return found[1] if found else None


def _note_in(path: Path) -> Path:
    return path / "left_out.txt" if path.is_dir() else path


def precision_of(path: Path) -> str:
    """The precision in a file's name: `classifier-fp16.onnx` is `fp16`, `classifier.pt` is `fp32`."""
    _, _, precision = path.stem.partition("-")
    return precision or "fp32"


def write_list(path: Path, variants: Iterable[str]) -> None:
    """Write the list of the compressed variants that belong into a folder, sorted: their order means nothing."""
    write_json(path, {"variants": sorted(variants)})


def discard_unlisted(folder: Path) -> None:
    """Delete the files of compressed variants that the folder's list does not have: DVC leaves them where they are.

    What lies in a folder is part of what its readers depend on: with the file of a variant taken off the list they
    would judge it further on, and no clone could reproduce them. Files with other names stay, as does all in a folder
    without a list.

    Raises:
        StageError: The list is none.
    """
    if not (folder / LIST).exists():
        return
    listed = read_json(folder / LIST).get("variants")
    if not isinstance(listed, list):
        raise StageError(f"{folder / LIST}: found no list of variants; `dvc repro` writes it")
    for variant, path in find_artifacts(folder).items():
        known = format_of(path.suffix)
        if known and known.compressed and known.compressed.fullmatch(variant) and variant not in listed:
            remove(path)

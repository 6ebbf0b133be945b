"""The formats a model is exported to, their precisions, and the names they give.

    models/<format>/classifier-<precision>.<suffix>    models/onnx/classifier-fp32.onnx
    models/<format>/variants.json                      the compressed variants that params.yaml lists
    data/predictions/<format>/<precision>.npy          its logits on the test split
    data/predictions/<format>/<precision>.json         how it was executed

Figures nest in the same order: `{"onnx": {"fp32": {"accuracy": 0.96}}}`.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from shared.stage import StageError, read_json, remove, replacing, write_json

SUFFIXES = {"pytorch": ".pt", "onnx": ".onnx", "coreml": ".mlpackage"}
REFERENCE = ("pytorch", "fp32")
LIST = "variants.json"
LEFT_OUT = "This format is left out: export.formats in params.yaml names those that are written.\n"
COMPRESSED = {
    ".onnx": re.compile(r"fp16|int8|int8_weights|int8_static"),
    ".mlpackage": re.compile(r"(sparse\d+_)?(sparse|palette|int)\d+"),
}
"""The names of the variants that the stages of a list make, which only the list decides on."""


def find_artifacts(folder: Path) -> dict[str, Path]:
    """Every file of a known format in a folder, by precision, sorted: a file without one in its name is fp32."""
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix in SUFFIXES.values() and not path.name.startswith(".") and not is_left_out(path)
    )
    return {precision_of(path): path for path in files}


def write_left_out(path: Path) -> None:
    """Write a note in place of a file whose format is left out: DVC wants every output to be there."""
    with replacing(path) as beside:
        if path.suffix == SUFFIXES["coreml"]:
            beside.mkdir()
        _note_in(beside).write_text(LEFT_OUT)


def is_left_out(path: Path) -> bool:
    """Whether a file of a format is such a note, and no model."""
    note = _note_in(path)
    return note.is_file() and note.stat().st_size == len(LEFT_OUT) and note.read_bytes() == LEFT_OUT.encode()


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
        pattern = COMPRESSED.get(path.suffix)
        if pattern and pattern.fullmatch(variant) and variant not in listed:
            remove(path)

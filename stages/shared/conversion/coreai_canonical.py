"""Byte-stable Core AI assets: equal programs give equal bytes, on another day, in another folder, in another process.

An asset is a folder: `main.mlirb` (the program, as MLIR bytecode), `main.hash` (its SHA-256) and `metadata.json`. Two
exports of one net differ in these, and in nothing else:

- the date in `metadata.json`, and the order of its own entries;
- where each op comes from: files and lines of the exporting program;
- the names of the larger constants, which are hashes with another seed in each process;
- the names of private functions (what normalisations and attention become), which end in random letters.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from shared.files.aimodel import DIGEST, PROGRAM

METADATA = "metadata.json"

CONSTANT = re.compile(r"dense_resource<(\w+)>")
DATA_OF_CONSTANT = re.compile(r'^( +)(\w+)(?=: "0x)', re.MULTILINE)
PRIVATE_GRAPH = re.compile(r"coreai\.graph private (?:\w+ )*@(\w+)")
GRAPH = re.compile(r"@(\w+)")


def canonicalize(asset: Path) -> None:
    """Rewrite a saved asset in place: no date, no places in sources, names by the order of their first appearance.

    By way of the program's text, which holds every value bit by bit: nothing else lets a constant be renamed.
    """
    from coreai._compiler.context import Context
    from coreai._compiler.ir import Location, Module
    from coreai.authoring import AIModelAsset
    from coreai.authoring.asset import AIProgram

    text = rename(str(AIModelAsset.load(asset).program))
    with Context()._mlir_context, Location.unknown() as nowhere:
        module = Module.parse(text)
        _move(module.operation, nowhere)
        AIProgram._from_mlir_module(module)._save_bytecode(asset / PROGRAM)
    (asset / DIGEST).write_bytes(hashlib.sha256((asset / PROGRAM).read_bytes()).digest())
    metadata = json.loads((asset / METADATA).read_text(encoding="utf-8"))
    metadata.pop("creationDate", None)
    content = json.dumps(metadata, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    (asset / METADATA).write_text(content, encoding="utf-8")


def rename(program: str) -> str:
    """A program's text with other names: large constants and private graphs are numbered as they appear."""
    constants = _numbered(CONSTANT.findall(program), lambda _: "constant")
    program = CONSTANT.sub(lambda found: f"dense_resource<{constants[found[1]]}>", program)
    program = DATA_OF_CONSTANT.sub(lambda found: found[1] + constants[found[2]], program)
    graphs = _numbered(PRIVATE_GRAPH.findall(program), lambda name: name.rpartition("_")[0] or name)
    return GRAPH.sub(lambda found: "@" + graphs.get(found[1], found[1]), program)


def _numbered(names: Iterable[str], kind: Callable[[str], str]) -> dict[str, str]:
    """A new name for each: its kind, and a number."""
    return {name: f"{kind(name)}_{number}" for number, name in enumerate(dict.fromkeys(names))}


def _move(operation: Any, place: Any) -> None:
    """Say of an op, and of all within it, that they come from a place."""
    from coreai._compiler._mlir_libs._coreaiIR._bindings.mlir import set_block_arg_location, set_op_location

    set_op_location(operation, place)
    for region in operation.regions:
        for block in region:
            for argument in block.arguments:
                set_block_arg_location(argument, place)
            for inner in block.operations:
                _move(inner.operation, place)

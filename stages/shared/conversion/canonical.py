"""Byte-stable ONNX and mlpackage: equal models give equal bytes, on another day, in another folder, in another process.

The exporters write the checkout's folder, the date, random identifiers and hash-ordered maps into their files; here
those are dropped or derived from the content, and a Core ML program is written in fewer bytes.
"""

import itertools
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

from shared.conversion.lean_package import shrink
from shared.files.mlpackage import MANIFEST, model_file, read_model
from shared.files.onnx_graph import nested_graphs

import onnx


def canonical_onnx(model: onnx.ModelProto, metadata: dict[str, str]) -> bytes:
    """Serialise an ONNX model with `metadata` as its only `metadata_props`.

    Per-node metadata and doc strings (which hold source paths) are cleared, and the shapes of what is computed on the
    way, which every reader infers. The IR version is the oldest that has the opset: older runtimes open the file.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.doc_string = ""
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    model.producer_version = _public_version(model.producer_version)
    _clear_notes(model.graph)
    for function in model.functions:
        for node in function.node:
            _clear_node(node)
        function.doc_string = ""
        del function.metadata_props[:]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def number_names(model: onnx.ModelProto) -> None:
    """Number in place what the exporter named, in the order in which nodes use it.

    Its own numbers count what it came across on the way, which is not always the same. Names of inputs and outputs
    stay, and of the net's own tensors, which have a dot.
    """
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    kept |= {tensor.name for tensor in model.graph.initializer if "." in tensor.name} | {""}
    free = (name for name in map("val_{}".format, itertools.count()) if name not in kept)
    names: dict[str, str] = {name: name for name in kept}
    _rename(model.graph, names, free, itertools.count())


def _rename(graph: onnx.GraphProto, names: dict[str, str], free: Iterator[str], numbers: Iterator[int]) -> None:
    """Rename all in a graph, and in those of its nodes; a name means the same in all of them."""

    def new(name: str) -> str:
        if name not in names:
            names[name] = next(free)
        return names[name]

    for value in graph.input:
        value.name = new(value.name)
    for node in graph.node:
        node.name = f"{node.op_type.lower()}_{next(numbers)}"
        node.input[:] = map(new, node.input)
        for nested in nested_graphs(node):
            _rename(nested, names, free, numbers)
        node.output[:] = map(new, node.output)
    for value in (*graph.initializer, *graph.value_info, *graph.output):
        value.name = new(value.name)


def _public_version(version: str) -> str:
    """A version without its local part: `2.13.0+cpu` and `2.13.0+cu130` write the same file."""
    return version.partition("+")[0]


def _clear_notes(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
    for node in graph.node:
        _clear_node(node)


def _clear_node(node: onnx.NodeProto) -> None:
    node.doc_string = ""
    del node.metadata_props[:]
    for attribute in node.attribute:
        attribute.doc_string = ""
    for graph in nested_graphs(node):
        _clear_notes(graph)


def canonicalize_mlpackage(package: Path) -> None:
    """Rewrite a saved mlpackage in place: no dates, maps in order, identifiers derived from the item's path.

    `Manifest.json` names the items below `Data/` by identifiers, which are random UUIDs when coremltools saves; a
    reader only needs them to be distinct. It is written as coremltools writes it each time that it opens a package, so
    that looking at a model changes nothing.
    """
    manifest_file = package / MANIFEST
    manifest = json.loads(manifest_file.read_text())
    identifiers = {
        old: str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])).upper()
        for old, item in manifest["itemInfoEntries"].items()
    }
    manifest["itemInfoEntries"] = {identifiers[old]: item for old, item in manifest["itemInfoEntries"].items()}
    manifest["rootModelIdentifier"] = identifiers[manifest["rootModelIdentifier"]]
    manifest_file.write_text(json.dumps(manifest, sort_keys=True, indent=4) + "\n")

    model = read_model(package)
    notes = model.description.metadata.userDefined
    for key in list(notes):
        if key.endswith("conversion_date"):
            del notes[key]
        elif key.startswith("com.github.apple.coremltools."):
            notes[key] = _public_version(notes[key])
    shrink(model)
    content = model.SerializeToString(deterministic=True)
    file = model_file(package)
    file.unlink()
    file.write_bytes(content)

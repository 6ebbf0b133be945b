"""What a saved ExecuTorch program holds: its method `forward`, the graphs that it hands to XNNPACK, and their weights.

The file is read by ExecuTorch's own package. Where that is not installed, the format is left out.
"""

import functools
import importlib
import json
import logging
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from shared.files.quiet import quiet, without_messages
from shared.kit.stage import one_line, read_bytes, reading

import numpy as np
from numpy.typing import NDArray

FORWARD, METADATA = "forward", "metadata"
"""The methods of a file: the net, and one that gives what the exporter says of it, as JSON."""
XNNPACK = "XnnpackBackend"
DTYPES = {"FLOAT": "float32", "HALF": "float16", "DOUBLE": "float64", "INT": "int32", "LONG": "int64", "BOOL": "bool"}
XNNPACK_DTYPES = {"xnn_datatype_fp32": "float32", "xnn_datatype_fp16": "float16"}


def import_executorch(name: str) -> ModuleType:
    """Import a module of ExecuTorch's package, without what it says about the installed torch.

    Raises:
        ImportError: It is not installed, or not for this machine.
    """
    with without_messages(logging.WARNING), quiet():
        return importlib.import_module(f"executorch.{name}")


def why_missing() -> str | None:
    """Why ExecuTorch cannot be had on this machine, in words; None if it can."""
    try:
        import_executorch("runtime")
        import_executorch("backends.xnnpack.partition.xnnpack_partitioner")
    except ImportError as error:
        return f"ExecuTorch is not installed ({one_line(error)}); see requirements-executorch.txt"
    return None


@dataclass(frozen=True)
class Constant:
    """A tensor of a file: its name there, its values, and the names of the ops that read it."""

    name: str
    values: NDArray[Any]
    dtype: str
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Tensor:
    """An input or an output of a method.

    Attributes:
        sizes: Of its axes; where it is dynamic, the largest.
        dtype: Such as `float32`.
        dynamic: Whether an axis may be smaller.
    """

    sizes: tuple[int, ...]
    dtype: str
    dynamic: bool


@dataclass(frozen=True)
class Program:
    """The content of a file.

    Attributes:
        inputs, outputs: Of the method `forward`.
        constants: Every tensor that it stores.
        ops: The name of every op, those in XNNPACK's graphs too.
        computed: The types of all tensors of numbers.
        backends: What must be part of the app beside the runtime.
        kernels: The ops that run outside these, whose kernels must be part of it as well.
        metadata: What the exporter says.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    constants: tuple[Constant, ...]
    ops: tuple[str, ...]
    computed: frozenset[str]
    backends: tuple[str, ...]
    kernels: tuple[str, ...]
    metadata: dict[str, str]


def read_program(path: Path) -> Program:
    """Read a file.

    Raises:
        StageError: It is damaged, or no program of ours.
    """
    with reading(path, "ExecuTorch program"):
        return _read(read_bytes(path))


@functools.lru_cache(maxsize=2)  # each reader asks for another part of the same file
def _read(content: bytes) -> Program:
    deserialize = import_executorch("exir._serialize._program").deserialize_pte_binary
    with quiet():
        file = deserialize(content)
    plans = {plan.name: plan for plan in file.program.execution_plan}
    plan = plans[FORWARD]
    kernels = [f"{operator.name}.{operator.overload}".rstrip(".") for operator in plan.operators]
    called = [type(step.instr_args).__name__ for chain in plan.chains for step in chain.instructions]
    ops = [
        kernels[step.instr_args.op_index]
        for chain in plan.chains
        for step in chain.instructions
        if type(step.instr_args).__name__ == "KernelCall"
    ]
    tensors = [value.val for value in plan.values if type(value.val).__name__ == "Tensor"]
    computed = {_dtype(tensor) for tensor in tensors}
    constants = {
        f"constant {tensor.data_buffer_idx}": Constant(
            f"constant {tensor.data_buffer_idx}", _array(file.program.constant_buffer, tensor), _dtype(tensor), ()
        )
        for tensor in tensors
        if tensor.data_buffer_idx > 0 and tensor.allocation_info is None
    }
    assert "DelegateCall" in called or not plan.delegates
    blobs = {name: file.named_data.buffers[entry.buffer_index] for name, entry in _named(file).items()}
    for delegate in plan.delegates:
        if delegate.id != XNNPACK:
            raise ValueError(f"a part for {delegate.id}, which nothing here reads")
        graph = _read_graph(file.program.backend_delegate_data[delegate.processed.index].data)
        ops += [f"xnnpack.{node['xnode_union_type'].removeprefix('XNN')}" for node in graph["xnodes"]]
        for value in graph["xvalues"]:
            tensor = value["xvalue_union"]
            tensor = tensor.get("tensor_value", tensor)
            dtype = XNNPACK_DTYPES.get(tensor["datatype"], tensor["datatype"].removeprefix("xnn_datatype_"))
            computed.add(dtype)
            index = tensor["constant_buffer_idx"]
            if not index:
                continue
            if dtype not in XNNPACK_DTYPES.values():
                raise ValueError(f"a tensor of {dtype}, which nothing here reads")
            name = graph["constant_data"][index]["named_key"]
            readers = [node["xnode_union_type"].removeprefix("XNN") for node in _readers(graph, tensor["id_out"])]
            array = np.frombuffer(blobs[name], dtype).reshape(tensor["dims"])
            constants.setdefault(name, Constant(name, array, dtype, tuple(readers)))
    return Program(
        inputs=tuple(_tensor(plan.values[index].val) for index in plan.inputs),
        outputs=tuple(_tensor(plan.values[index].val) for index in plan.outputs),
        constants=tuple(constants.values()),
        ops=tuple(ops),
        computed=frozenset(dtype for dtype in computed if dtype not in {"int32", "int64", "bool"}),
        backends=tuple(sorted({delegate.id for delegate in plan.delegates})),
        kernels=tuple(sorted(set(kernels))),
        metadata=_metadata(plans),
    )


def _named(file: Any) -> dict[str, Any]:
    return {} if file.named_data is None else dict(file.named_data.pte_data)


def _dtype(tensor: Any) -> str:
    name = str(tensor.scalar_type.name)
    return DTYPES.get(name, name.lower())


def _tensor(tensor: Any) -> Tensor:
    return Tensor(tuple(tensor.sizes), _dtype(tensor), tensor.shape_dynamism.name != "STATIC")


def _array(buffers: Any, tensor: Any) -> NDArray[Any]:
    content = bytes(buffers[tensor.data_buffer_idx].storage)
    count = int(np.prod(tensor.sizes, dtype=np.int64))
    dtype = np.dtype(_dtype(tensor))
    return np.frombuffer(content[: count * dtype.itemsize], dtype).reshape(tensor.sizes)


def _metadata(plans: dict[str, Any]) -> dict[str, str]:
    plan = plans.get(METADATA)
    if plan is None:
        return {}
    content = json.loads(plan.values[plan.outputs[0]].val.string_val)
    return {str(key): str(value) for key, value in content.items()}


def _read_graph(content: bytes) -> dict[str, Any]:
    """A graph of XNNPACK's, by flatc, which ExecuTorch's package brings with the schema."""
    serialization = import_executorch("backends.xnnpack.serialization.xnnpack_graph_serialize")
    header = serialization.XNNHeader.from_bytes(content[: serialization.XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "schema.fbs").write_bytes(serialization._get_schema_bytes())
        start = header.flatbuffer_offset
        (folder / "graph.bin").write_bytes(content[start : start + header.flatbuffer_size])
        flatc = import_executorch("exir._serialize._flatbuffer")._flatc_decompile
        flatc(name, str(folder / "schema.fbs"), str(folder / "graph.bin"))
        text = (folder / "graph.json").read_text()
    text = re.sub(r"(?<=: )(-?)inf\b", r"\1Infinity", text)  # no JSON, but what flatc writes
    graph: dict[str, Any] = json.loads(re.sub(r"(?<=: )-?nan\b", "NaN", text))
    return graph


def _readers(graph: dict[str, Any], value: int) -> Iterator[dict[str, Any]]:
    """The nodes of a graph that read a value."""
    for node in graph["xnodes"]:
        inside = node["xnode_union"]
        inside = inside.get("node", inside)
        if any(key.endswith("_id") and key != "output_id" and inside[key] == value for key in inside):
            yield node

"""ONNX's own reference evaluator, which is the standard's definition of each operation in numpy: a second opinion."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.execution.interface import Interface
from shared.execution.runtimes import Floats, LeftOutError, Lengths, by_name
from shared.files.onnx_graph import all_nodes, read_onnx

import numpy as np

if TYPE_CHECKING:
    import onnx

LENGTHS_INPUT = 4
READ_PAST: dict[str, dict[str, Any]] = {
    "LSTM": {"activations": [b"Sigmoid", b"Tanh", b"Tanh"], "input_forget": 0, "clip": None},
    "GRU": {"activations": [b"Sigmoid", b"Tanh"], "clip": None},
    "RNN": {"clip": None},
}
"""Attributes of recurrent operations that it takes to be these, without a word; and all lengths to be full."""


class OnnxReferenceRuntime:
    """An ONNX file on `onnx.reference.ReferenceEvaluator`.

    Args:
        path: The file.
        interface: What it declares of itself.
        batch_dependent: See `Runtime`.

    Raises:
        LeftOutError: It does not know an operation, or leaves out a part of it.
    """

    executor = "onnx_reference"

    def __init__(self, path: Path, interface: Interface, batch_dependent: bool) -> None:
        from onnx.reference import ReferenceEvaluator

        model = read_onnx(path)
        for node in all_nodes(model):
            if node.domain not in ("", "ai.onnx"):
                raise LeftOutError(f"{node.op_type} is no operation of the ONNX standard")
            if lacking := what_is_read_past(node):
                raise LeftOutError(f"it reads past {lacking} of {node.op_type}")
        self.interface, self.batch_dependent = interface, batch_dependent
        self._evaluator = ReferenceEvaluator(model)
        self.version = version("onnx")

    def logits(self, batch: Floats, lengths: Lengths | None = None) -> Floats:
        """See `Runtime`."""
        inputs = by_name(self.interface, batch, lengths)
        with np.errstate(all="ignore"):
            found: Any = self._evaluator.run([self.interface.output_name], inputs)
        logits: Floats = found[0]
        return logits


def what_is_read_past(node: "onnx.NodeProto") -> str | None:
    """What the evaluator leaves out of a recurrent operation: its answer would be that of another file."""
    taken = READ_PAST.get(node.op_type)
    if taken is None:
        return None
    if len(node.input) > LENGTHS_INPUT and node.input[LENGTHS_INPUT]:
        return "sequence_lens"
    for attribute in node.attribute:
        if attribute.name in taken:
            usual = taken[attribute.name]
            same = (
                list(attribute.strings) in (usual, 2 * usual)  # of one direction or of both
                if isinstance(usual, list)
                else attribute.i == usual
            )
            if not same:
                return str(attribute.name)
    return None

"""The twin of a file: the float32 file of its format with the file's own weights put in place; logits out.

What a file's weights cost is no fault of its graph, and what its graph does wrong is not hidden by what its weights
cost: the file has to compute what its twin computes, but for the rounding of the precision that it computes in.
"""

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from shared.execution.isolation import START_METHOD
from shared.execution.runtimes import Floats, Lengths, Runtime, open_runtime
from shared.files.aimodel import with_constants
from shared.files.onnx_graph import all_nodes
from shared.judging.stored import Stored, load_onnx, read_program, read_weights
from shared.judging.weights import Match
from shared.kit.stage import StageError

import numpy as np
from numpy.typing import NDArray

BATCH = 64


class Source(Protocol):
    """The float32 file of a format: its weights, and what it computes with others in their place."""

    weights: list[Stored]

    def logits(self, matches: list[Match], sequences: Floats, lengths: Lengths | None) -> NDArray[np.float64]:
        """Logits (rows, classes) of the twin with the matched weights."""


def open_source(path: Path) -> Source:
    """Open the float32 file of a format.

    Raises:
        StageError: It cannot be read.
    """
    return SOURCES[path.suffix](path)


class _OnnxSource:
    def __init__(self, path: Path) -> None:
        self.weights = read_weights(path)
        self._model = load_onnx(path)
        self._twin: tuple[int, Any] | None = None

    def logits(self, matches: list[Match], sequences: Floats, lengths: Lengths | None) -> NDArray[np.float64]:
        """See `Source`."""
        if self._twin is None or self._twin[0] != id(matches):
            self._twin = (id(matches), self._open(matches))
        return batched(self._twin[1].logits, sequences, lengths, BATCH)

    def _open(self, matches: list[Match]) -> Any:
        import onnx

        model = onnx.ModelProto.FromString(self._model.SerializeToString())
        values = {found.source.where: found.values.astype(np.float32) for found in matches}
        for tensor in model.graph.initializer:
            if tensor.name in values:
                tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name], tensor.name))
        for node in all_nodes(model):
            if node.op_type == "Constant" and node.output[0] in values:
                for attribute in node.attribute:
                    attribute.t.CopyFrom(onnx.numpy_helper.from_array(values[node.output[0]], attribute.t.name))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "twin.onnx"
            onnx.save(model, file)
            return open_runtime(file)


class _PackageSource:
    """On our own evaluator, in float64: on a Mac, too, where Core ML executed the file itself."""

    def __init__(self, path: Path) -> None:
        from shared.coreml_reference import CoreMLReference

        self._model = CoreMLReference(path, compute="exact")
        self.weights = list(read_program(self._model.program))
        self._current: int | None = None

    def logits(self, matches: list[Match], sequences: Floats, lengths: Lengths | None) -> NDArray[np.float64]:
        """See `Source`."""
        if self._current != id(matches):
            self._model.set_constants((found.source.where, found.values) for found in matches)
            self._current = id(matches)
        names = {feature.dtype.kind: name for name, feature in self._model.inputs.items() if feature.dtype is not None}
        [output] = self._model.outputs

        def run(batch: Floats, counts: Lengths | None = None) -> NDArray[np.float64]:
            inputs: dict[str, NDArray[Any]] = {names["f"]: batch}
            if counts is not None and "i" in names:
                inputs[names["i"]] = counts
            logits: NDArray[np.float64] = self._model.predict(inputs)[output]
            return logits

        bounds = self._model.inputs[names["f"]].bounds
        largest = bounds[0][1] if bounds else len(sequences)
        return batched(run, sequences, lengths, min(BATCH, largest or BATCH))


class _AssetSource:
    """On Apple's runtime, as the file itself: in a process of its own, since one that has used it can fork no more."""

    def __init__(self, path: Path) -> None:
        self.weights = read_weights(path)
        self._path = path
        self._matches: int | None = None
        self._folder = tempfile.TemporaryDirectory()
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context(START_METHOD))

    def logits(self, matches: list[Match], sequences: Floats, lengths: Lengths | None) -> NDArray[np.float64]:
        """See `Source`."""
        file = Path(self._folder.name) / f"{id(matches)}.aimodel"
        if self._matches != id(matches):
            with_constants(self._path, {found.source.where: found.values for found in matches}, file)
            self._matches = id(matches)
        return self._process.submit(_run_asset, file, sequences, lengths).result()


@lru_cache(1)
def _opened(file: Path) -> Runtime:
    return open_runtime(file)


def _run_asset(file: Path, sequences: Floats, lengths: Lengths | None) -> NDArray[np.float64]:
    return batched(_opened(file).logits, sequences, lengths, BATCH)


class _ExecuTorchSource:
    """Its weights alone: no variant is made from it that would need a twin."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weights = read_weights(path)

    def logits(self, matches: list[Match], sequences: Floats, lengths: Lengths | None) -> NDArray[np.float64]:  # noqa: ARG002
        """See `Source`.

        Raises:
            StageError: Always.
        """
        raise StageError(f"{self.path}: no other weights can be put into an ExecuTorch program")


SOURCES: dict[str, Callable[[Path], Source]] = {
    ".onnx": _OnnxSource,
    ".mlpackage": _PackageSource,
    ".aimodel": _AssetSource,
    ".pte": _ExecuTorchSource,
}
"""What opens the float32 file of a format, by its suffix."""


def batched(run: Any, sequences: Floats, lengths: Lengths | None, size: int) -> NDArray[np.float64]:
    """The logits of all rows, so many at a time."""
    parts = []
    for start in range(0, len(sequences), size):
        rows = slice(start, start + size)
        batch = np.ascontiguousarray(sequences[rows])
        parts.append(run(batch) if lengths is None else run(batch, np.ascontiguousarray(lengths[rows])))
    logits: NDArray[np.float64] = np.concatenate(parts).astype(np.float64)
    return logits


def distance(found: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """The root mean square of the error of the class that is furthest off."""
    error = found.astype(np.float64) - expected
    return float(np.sqrt(np.square(error).mean(axis=0).max()))

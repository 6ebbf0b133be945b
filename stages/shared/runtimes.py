"""Open any exported file -> logits of a batch, with the runtime that a user would use.

PyTorch for checkpoints, ONNX Runtime for ONNX, Core ML for mlpackages on macOS, and elsewhere our own evaluator of
saved Core ML programs. A runtime reports who executed the file; figures of `coreml` and `reference` are never mixed.
"""

import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from shared.stage import StageError, one_line

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Interface:
    """What a file declares of itself.

    Attributes:
        input_name: Name of the input tensor; None where the format has no names.
        output_name: Name of the output tensor; None where the format has no names.
        input_axes: A size, or the name or the range ("1..4096") of a dynamic axis.
        dtypes: Of the input and the output.
        classes: Names of the classes, in the order of the logits.
        largest_batch: The largest batch that the file accepts; None if there is no limit.
    """

    input_name: str | None
    output_name: str | None
    input_axes: list[int | str]
    dtypes: list[str]
    classes: list[str]
    largest_batch: int | None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


class Runtime(Protocol):
    """An exported file, open for inference."""

    executor: str
    """Who computes: `pytorch`, `onnxruntime`, `coreml` or `reference`."""

    version: str
    """Which version of it; of macOS for `coreml`, of the coremltools that reads the package for `reference`."""

    interface: Interface

    def logits(self, batch: Floats) -> Floats:
        """Logits (batch, classes) of sequences (batch, time, features)."""


def open_runtime(path: Path) -> Runtime:
    """Open a file with the runtime of its format.

    Raises:
        StageError: The file is damaged, incomplete, or not of a format with one float32 input and output.
    """
    if path.suffix == ".pt":
        return PyTorchRuntime(path)
    if path.suffix == ".onnx":
        return OnnxRuntime(path)
    if path.suffix == ".mlpackage":
        return CoreMLRuntime(path) if platform.system() == "Darwin" else ReferenceRuntime(path)
    raise StageError(
        f"{path}: no runtime opens {path.suffix or 'a file without a suffix'}; known: .pt, .onnx, .mlpackage"
    )


def stored_classes(path: Path, metadata: dict[str, str]) -> list[str]:
    """The class names that an exporter stored as JSON.

    Raises:
        StageError: It stored none, or none that can be read.
    """
    try:
        classes = json.loads(metadata["classes"])
    except (KeyError, ValueError):
        raise StageError(f"{path}: its metadata holds no list of classes") from None
    return [str(name) for name in classes]


class PyTorchRuntime:
    """A checkpoint, run eagerly: the reference that the exported files are compared with."""

    executor = "pytorch"

    def __init__(self, path: Path) -> None:
        from shared.model import load_checkpoint

        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._model = load_checkpoint(path).model
        config = self._model.config
        self.interface = Interface(
            input_name=None,
            output_name=None,
            input_axes=["batch", config.time_steps, len(config.features)],
            dtypes=["float32", "float32"],
            classes=config.classes,
            largest_batch=None,
        )
        self.version = version("torch").partition("+")[0]

    def logits(self, batch: Floats) -> Floats:
        """See `Runtime`."""
        with self._torch.inference_mode():
            logits: Floats = self._model(self._torch.from_numpy(batch)).numpy()
        return logits


class OnnxRuntime:
    """An ONNX file on ONNX Runtime's CPU provider, with one thread."""

    executor = "onnxruntime"

    def __init__(self, path: Path) -> None:
        self._session = open_session(path, threads=1)
        source, target = _only_pair(path, self._session.get_inputs(), self._session.get_outputs())
        fixed = source.shape[0] if source.shape and isinstance(source.shape[0], int) else None
        self.interface = Interface(
            input_name=source.name,
            output_name=target.name,
            input_axes=list(source.shape),
            dtypes=[ONNX_DTYPES.get(value.type, value.type) for value in (source, target)],
            classes=stored_classes(path, self._session.get_modelmeta().custom_metadata_map),
            largest_batch=fixed,
        )
        self.version = version("onnxruntime")

    def logits(self, batch: Floats) -> Floats:
        """See `Runtime`."""
        logits: Floats = self._session.run([self.interface.output_name], {self.interface.input_name: batch})[0]
        return logits


def open_session(path: Path, threads: int) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, with that many threads for each operation.

    Raises:
        StageError: The file is no ONNX file, or one that the runtime refuses.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions have no common base
        raise StageError(f"{path}: not a readable ONNX file: {one_line(error)}") from None


ONNX_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}


class ReferenceRuntime:
    """An mlpackage on our own evaluator, which reads nothing but the saved package."""

    executor = "reference"

    def __init__(self, path: Path) -> None:
        from shared.coreml_reference import CoreMLReference, CoreMLReferenceError

        try:
            self._model = CoreMLReference(path)
        except CoreMLReferenceError as error:
            raise StageError(_naming(path, error)) from None
        self.interface = _coreml_interface(
            path, self._model.inputs, self._model.outputs, self._model.user_defined_metadata
        )
        self.version = version("coremltools")

    def logits(self, batch: Floats) -> Floats:
        """See `Runtime`."""
        logits: Floats = self._model.predict({str(self.interface.input_name): batch})[str(self.interface.output_name)]
        return logits


class CoreMLRuntime:
    """An mlpackage on Apple's Core ML, on the CPU only: the other units round differently from machine to machine."""

    executor = "coreml"

    def __init__(self, path: Path) -> None:
        from shared.coreml_reference import CoreMLReferenceError
        from shared.coreml_reference.program import load_program
        from shared.quiet import import_coremltools

        ct = import_coremltools()
        try:
            program = load_program(path)
            self._model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.CPU_ONLY)
        except (CoreMLReferenceError, RuntimeError, ValueError) as error:
            raise StageError(_naming(path, error)) from None
        self.interface = _coreml_interface(path, program.inputs, program.outputs, program.user_defined_metadata)
        self.version = platform.mac_ver()[0]

    def logits(self, batch: Floats) -> Floats:
        """See `Runtime`."""
        logits: Floats = self._model.predict({self.interface.input_name: batch})[self.interface.output_name]
        return logits


def _coreml_interface(
    path: Path, inputs: dict[str, Any], outputs: dict[str, Any], metadata: dict[str, str]
) -> Interface:
    source, target = _only_pair(path, list(inputs.values()), list(outputs.values()))
    axes: list[int | str] = list(source.shape)
    largest = source.shape[0] if source.shape else None
    if source.bounds:
        axes = [low if low == high else f"{low}..{'' if high is None else high}" for low, high in source.bounds]
        largest = source.bounds[0][1]
    return Interface(
        input_name=source.name,
        output_name=target.name,
        input_axes=axes,
        dtypes=[str(source.dtype), str(target.dtype)],
        classes=stored_classes(path, metadata),
        largest_batch=largest,
    )


def _only_pair(path: Path, inputs: list[Any], outputs: list[Any]) -> tuple[Any, Any]:
    if len(inputs) != 1 or len(outputs) != 1:
        raise StageError(f"{path}: {len(inputs)} inputs and {len(outputs)} outputs; expected one of each")
    return inputs[0], outputs[0]


def _naming(path: Path, error: Exception) -> str:
    message = one_line(error)
    return message if str(path) in message else f"{path}: {message}"

"""Open any exported file -> logits of a batch, with the runtime that a user would use.

PyTorch for checkpoints, ONNX Runtime for ONNX, Core ML for mlpackages on macOS, and elsewhere our own evaluator of
saved Core ML programs, the runtime of Apple's coreai-core for Core AI. A runtime reports who executed the file; figures
of `coreml` and `reference` are never mixed.
"""

import contextlib
import copy
import importlib
import json
import platform
import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from shared.execution.coreai import CoreAIFunction
from shared.execution.interface import Interface
from shared.files import pte
from shared.files.aimodel import check_hash, import_coreai, metadata_of, why_missing
from shared.files.onnx_graph import all_nodes, read_onnx
from shared.files.pte import FORWARD, Tensor, import_executorch, read_program
from shared.files.quiet import import_coremltools, overheard
from shared.kit import importing
from shared.kit.stage import StageError, one_line, read_bytes, reading

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Lengths = NDArray[np.int32]


class Runtime(Protocol):
    """An exported file, open for inference."""

    executor: str
    """Who computes: a name of `EXECUTORS` in shared/files/formats.py."""

    version: str
    """Which version of it; of macOS for `coreml`, of the coremltools that reads the package for `reference`."""

    interface: Interface

    batch_dependent: bool
    """Whether the logits of a row depend on the other rows of its batch."""

    def logits(self, batch: Floats, lengths: Lengths | None = None) -> Floats:
        """Logits (batch, classes) of sequences (batch, time, features) and lengths (batch,), if the file takes them."""


def import_runtimes(paths: list[Path]) -> None:
    """Import what opening and running these files takes, so that a process forked from this one need not."""
    with importing():
        for suffix in {path.suffix for path in paths} & MODULES.keys():
            if suffix == ".mlpackage":
                import_coremltools()
            for name in MODULES[suffix]:
                QUIET_IMPORTS.get(suffix, importlib.import_module)(name)


def why_not_run(paths: list[Path]) -> str | None:
    """Why this machine cannot run these files, whatever is in them; None if it can."""
    if any(path.suffix == ".aimodel" for path in paths) and (missing := why_missing()):
        return f"Core AI: {missing}"
    if any(path.suffix == ".pte" for path in paths):
        return pte.why_missing()
    return None


MODULES = {
    ".pt": ["shared.network.model"],
    ".onnx": ["onnx", "onnxruntime"],
    ".aimodel": ["coreai.authoring"],
    ".pte": ["runtime", "exir._serialize._program"],
    ".mlpackage": ["shared.coreml_reference", "coremltools.converters.mil.frontend.milproto.load"],
}
"""The modules behind each suffix."""
QUIET_IMPORTS = {".aimodel": import_coreai, ".pte": import_executorch}
"""What imports them where that is not Python itself."""


class LeftOutError(StageError):
    """Why an executor does not run a file, which says nothing of the file: it is not installed, or knows no such op."""


def open_runtime(path: Path) -> Runtime:
    """Open a file with the runtime of its format.

    Raises:
        StageError: The file is damaged, incomplete, or has other tensors than a sequence, perhaps lengths, and logits.
    """
    if path.suffix not in OPENERS:
        raise StageError(
            f"{path}: no runtime opens {path.suffix or 'a file without a suffix'}; known: {', '.join(OPENERS)}"
        )
    with reading(path, "model"):
        return OPENERS[path.suffix](path)


def open_elsewhere(path: Path, executor: str, runtime: Runtime) -> Runtime:
    """Open a file with one of `OTHER_EXECUTORS`; what it declares of itself has been read by its format's runtime.

    Raises:
        LeftOutError: The other executor cannot run it here.
        StageError: The other executor refuses it.
    """
    from shared.execution.onnx_reference import OnnxReferenceRuntime
    from shared.execution.web_runtime import WebRuntime

    kinds = {kind.executor: kind for kind in (WebRuntime, OnnxReferenceRuntime)}
    with reading(path, "model"):
        return kinds[executor](path, runtime.interface, runtime.batch_dependent)


def stored_names(path: Path, metadata: dict[str, str], key: str) -> list[str]:
    """The names of the classes or of the features that an exporter stored as JSON.

    Raises:
        StageError: It stored none, or none that can be read.
    """
    try:
        names = json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and is_text(name) for name in names):
        raise StageError(f"{path}: its metadata holds no list of {key}")
    return names


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8: JSON can spell halves of characters, which cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


class PyTorchRuntime:
    """A checkpoint, run eagerly: the reference that the exported files are compared with."""

    executor = "pytorch"
    batch_dependent = False

    def __init__(self, path: Path) -> None:
        from shared.network.model import load_checkpoint

        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._model = load_checkpoint(path).model
        self._exact: Any = None
        config = self._model.config
        self.interface = Interface(
            input_name=None,
            lengths_name=None,
            output_name=None,
            input_axes=["batch", config.time_steps, len(config.features)],
            output_axes=["batch", len(config.classes)],
            dtypes=["float32", *(["int32"] if config.ragged else []), "float32"],
            features=config.features,
            classes=config.classes,
            largest_batch=None,
            dynamic_time=config.any_time,
            largest_time=None if config.any_time else config.time_steps,
        )
        self.version = version("torch").partition("+")[0]

    def logits(self, batch: Floats, lengths: Lengths | None = None) -> Floats:
        """See `Runtime`."""
        inputs = [self._torch.from_numpy(array) for array in (batch, lengths) if array is not None]
        with self._torch.inference_mode():
            logits: Floats = self._model(*inputs).numpy()
        return logits

    def exact_logits(self, batch: Floats, lengths: Lengths | None = None) -> NDArray[np.float64] | None:
        """The same computed in float64: how far `logits` are from it is what rounding does to this net on this input.

        None where the net does not compute in another precision than it was written for.
        """
        if self._exact is None:
            self._exact = copy.deepcopy(self._model).double()
        inputs = [self._torch.from_numpy(array) for array in (batch.astype(np.float64), lengths) if array is not None]
        try:
            with self._torch.inference_mode():
                logits: NDArray[np.float64] = self._exact(*inputs).numpy()
        except Exception:  # whatever a person's own net raises
            return None
        return logits


class OnnxRuntime:
    """An ONNX file on ONNX Runtime's CPU provider, with one thread; or one in ORT format that was `made_from` it."""

    executor = "onnxruntime"

    def __init__(self, path: Path, made_from: Path | None = None) -> None:
        self._session = open_session(path, threads=1)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        source, lengths, target = _named_tensors(
            path, inputs, outputs, {tensor.name: ONNX_DTYPES.get(tensor.type, tensor.type) for tensor in inputs}
        )
        tensors = [tensor for tensor in (source, lengths, target) if tensor is not None]
        axes = list(source.shape)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.interface = Interface(
            input_name=source.name,
            lengths_name=lengths and lengths.name,
            output_name=target.name,
            input_axes=axes,
            output_axes=list(target.shape),
            dtypes=[ONNX_DTYPES.get(tensor.type, tensor.type) for tensor in tensors],
            features=stored_names(path, metadata, "features"),
            classes=stored_names(path, metadata, "classes"),
            largest_batch=_size(axes, 0),
            dynamic_time=len(axes) > 1 and isinstance(axes[1], str),
            largest_time=_size(axes, 1),
        )
        self.version = version("onnxruntime")
        self.batch_dependent = _quantizes_activations(made_from or path)

    def logits(self, batch: Floats, lengths: Lengths | None = None) -> Floats:
        """See `Runtime`."""
        inputs = by_name(self.interface, batch, lengths)
        logits: Floats = self._session.run([self.interface.output_name], inputs)[0]
        return logits


def session_options(threads: int) -> Any:
    """The `onnxruntime.SessionOptions` that ONNX files are opened with.

    Kernels take their memory from the runtime's arena: from the heap, a call with one sequence is some percent faster,
    one with hundreds some percent slower (docs/latency.md).
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def open_session(path: Path, threads: int, options: Any = None) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, with that many threads for each operation.

    Args:
        path: Of an ONNX file, or of one in ORT format.
        threads: For each operation.
        options: Instead of `session_options(threads)`.

    Raises:
        StageError: The file is no ONNX file, or one that the runtime refuses.
    """
    import onnxruntime as ort

    with reading(path, "ONNX file"):
        # From its bytes: weights in a second file would be left behind where this one is shipped.
        return ort.InferenceSession(
            read_bytes(path), options or session_options(threads), providers=["CPUExecutionProvider"]
        )


ONNX_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


def _size(axes: list[int | str], index: int) -> int | None:
    """The size of an axis; None if it is dynamic, or there is no such axis."""
    size = axes[index] if index < len(axes) else None
    return size if isinstance(size, int) else None


def _quantizes_activations(path: Path) -> bool:
    """Whether an ONNX file chooses the scale of its activations at run time, from all values of a batch together."""
    return any(node.op_type.startswith("DynamicQuantize") for node in all_nodes(read_onnx(path)))


class ReferenceRuntime:
    """An mlpackage on our own evaluator, which reads nothing but the saved package."""

    executor = "reference"
    batch_dependent = False

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

    def logits(self, batch: Floats, lengths: Lengths | None = None) -> Floats:
        """See `Runtime`."""
        outputs = self._model.predict(by_name(self.interface, batch, lengths))
        logits: Floats = outputs[str(self.interface.output_name)]
        return logits


class CoreMLRuntime:
    """An mlpackage on Apple's Core ML, on the CPU only: the other units round differently from machine to machine."""

    executor = "coreml"
    batch_dependent = False

    def __init__(self, path: Path) -> None:
        from shared.coreml_reference import CoreMLReferenceError
        from shared.coreml_reference.program import load_program

        ct = import_coremltools()
        try:
            program = load_program(path)
            self._model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.CPU_ONLY)
        except (CoreMLReferenceError, RuntimeError, ValueError) as error:
            raise StageError(_naming(path, error)) from None
        self.interface = _coreml_interface(path, program.inputs, program.outputs, program.user_defined_metadata)
        self.version = platform.mac_ver()[0]

    def logits(self, batch: Floats, lengths: Lengths | None = None) -> Floats:
        """See `Runtime`."""
        logits: Floats = self._model.predict(by_name(self.interface, batch, lengths))[self.interface.output_name]
        return logits


def _coreml_interface(
    path: Path, inputs: dict[str, Any], outputs: dict[str, Any], metadata: dict[str, str]
) -> Interface:
    dtypes = {name: str(tensor.dtype) for name, tensor in inputs.items()}
    source, lengths, target = _named_tensors(path, list(inputs.values()), list(outputs.values()), dtypes)
    bounds = _bounds(source)
    return Interface(
        input_name=source.name,
        lengths_name=lengths and lengths.name,
        output_name=target.name,
        input_axes=_in_words(bounds),
        output_axes=_in_words(_bounds(target)) or None,
        dtypes=[str(tensor.dtype) for tensor in (source, lengths, target) if tensor is not None],
        features=stored_names(path, metadata, "features"),
        classes=stored_names(path, metadata, "classes"),
        largest_batch=bounds[0][1] if bounds else None,
        dynamic_time=len(bounds) > 1 and bounds[1][0] != bounds[1][1],
        largest_time=bounds[1][1] if len(bounds) > 1 else None,
    )


def _bounds(tensor: Any) -> list[tuple[int, int | None]]:
    """The lowest and the highest size of every axis; of an output with a dynamic axis Core ML declares none."""
    return list(tensor.bounds or [(size, size) for size in tensor.shape])


def _in_words(bounds: list[tuple[int, int | None]]) -> list[int | str]:
    return [low if low == high else f"{low}..{'' if high is None else high}" for low, high in bounds]


def _named_tensors(
    path: Path, inputs: list[Any], outputs: list[Any], dtypes: dict[str, str]
) -> tuple[Any, Any | None, Any]:
    """The sequence, the lengths if the file takes any, and the logits. Lengths are told by being integers."""
    lengths = [tensor for tensor in inputs if dtypes[tensor.name].startswith("int")]
    others = [tensor for tensor in inputs if tensor not in lengths]
    if len(others) != 1 or len(lengths) > 1 or len(outputs) != 1:
        found = ", ".join(f"{tensor.name} ({dtypes[tensor.name]})" for tensor in inputs)
        raise StageError(
            f"{path}: {len(inputs)} inputs and {len(outputs)} outputs; expected one input of numbers, at most one of "
            f"integer lengths, and one output; found inputs {found or 'none'}, outputs "
            f"{', '.join(tensor.name for tensor in outputs) or 'none'}"
        )
    return others[0], lengths[0] if lengths else None, outputs[0]


def by_name(interface: Interface, batch: Floats, lengths: Lengths | None) -> dict[str, NDArray[Any]]:
    """A batch as a file's inputs; lengths are passed to a file that takes them."""
    inputs: dict[str, NDArray[Any]] = {str(interface.input_name): batch}
    if interface.lengths_name is not None and lengths is not None:
        inputs[interface.lengths_name] = lengths
    return inputs


def _naming(path: Path, error: Exception) -> str:
    message = one_line(error)
    return message if str(path) in message else f"{path}: {message}"


class CoreAIRuntime:
    """A Core AI asset on Apple's runtime, as the package coreai-core brings it: on the CPU."""

    executor = "coreai"
    batch_dependent = False

    def __init__(self, path: Path) -> None:
        check_hash(path)
        self._function = CoreAIFunction(path)
        inputs, outputs = self._function.inputs, self._function.outputs
        dtypes = {name: kind for name, (_, kind) in inputs.items()}
        source, lengths, target = _named_tensors(
            path, [Named(name) for name in inputs], [Named(name) for name in outputs], dtypes
        )
        axes, declared = (
            [size or AXES[axis] for axis, size in enumerate(form)]
            for form in (inputs[source.name][0], outputs[target.name][0])
        )
        metadata = metadata_of(path)
        self.interface = Interface(
            input_name=source.name,
            lengths_name=lengths and lengths.name,
            output_name=target.name,
            input_axes=axes,
            output_axes=declared,
            dtypes=[dtypes[tensor.name] for tensor in (source, lengths) if tensor] + [outputs[target.name][1]],
            features=stored_names(path, metadata, "features"),
            classes=stored_names(path, metadata, "classes"),
            largest_batch=_size(axes, 0),
            dynamic_time=len(axes) > 1 and isinstance(axes[1], str),
            largest_time=_size(axes, 1),
        )
        self.version = version("coreai-core")

    def logits(self, batch: Floats, lengths: Lengths | None = None) -> Floats:
        """See `Runtime`."""
        logits: Floats = self._function(by_name(self.interface, batch, lengths))[str(self.interface.output_name)]
        return logits


class Named(NamedTuple):
    """A tensor of which the name alone is asked."""

    name: str


AXES = ("batch", "time", "feature")
REFUSED_OPERATOR = re.compile(r"(?:Missing operator: \[\d+\]|KernelCall failed at .+ in operator) ([\w:.]+\w)")
"""In the log of ExecuTorch's runtime."""


class ExecuTorchRuntime:
    """An ExecuTorch program on ExecuTorch's own runtime, with XNNPACK, and with one thread."""

    executor = "executorch"
    batch_dependent = False

    def __init__(self, path: Path) -> None:
        import torch

        program = read_program(path)
        self._path = path
        self._execute = open_method(path, threads=1)
        self._tensor = torch.from_numpy
        metadata = program.metadata
        names = [*stored_names(path, metadata, "inputs"), *stored_names(path, metadata, "outputs")]
        tensors = [*program.inputs, *program.outputs]
        if len(program.outputs) != 1 or len(program.inputs) not in (1, 2) or len(names) != len(tensors):
            raise StageError(
                f"{path}: {len(program.inputs)} inputs, {len(program.outputs)} outputs, {len(names)} names; expected "
                "one input of numbers, at most one of lengths, one output, and a name of each"
            )
        source, target = tensors[0], tensors[-1]
        self.interface = Interface(
            input_name=names[0],
            lengths_name=names[1] if len(names) == 3 else None,
            output_name=names[-1],
            input_axes=_bounded(source),
            output_axes=_bounded(target),
            dtypes=[tensor.dtype for tensor in tensors],
            features=stored_names(path, metadata, "features"),
            classes=stored_names(path, metadata, "classes"),
            largest_batch=source.sizes[0],
            dynamic_time=False,
            largest_time=source.sizes[1] if len(source.sizes) > 1 else None,
        )
        self.version = version("executorch")

    def logits(self, batch: Floats, lengths: Lengths | None = None) -> Floats:
        """See `Runtime`."""
        inputs = [np.ascontiguousarray(array) for array in (batch, lengths) if array is not None]
        with telling_the_operator(self._path):
            logits: Floats = self._execute([self._tensor(array) for array in inputs])[0].numpy().copy()
        return logits


@contextlib.contextmanager
def telling_the_operator(path: Path) -> Iterator[None]:
    """Within it, ExecuTorch's runtime is quiet; what it refuses is named, which its exceptions do not do: its log does.

    Raises:
        StageError: It has no kernel for an operator of the file, or one refuses its arguments.
    """
    with overheard() as log:
        try:
            yield
        except RuntimeError as error:
            if found := REFUSED_OPERATOR.search(log()):
                reason = one_line(error)
                raise StageError(f"{path}: ExecuTorch's runtime refuses {found[1]}: {reason}") from None
            raise


def open_method(path: Path, threads: int) -> Callable[[list[Any]], Any]:
    """What runs the method `forward` of an ExecuTorch program, with that many threads: tensors in, tensors out.

    Raises:
        StageError: The file is no such program, or one that the runtime refuses.
    """
    runtime = import_executorch("runtime")
    library = import_executorch("extension.pybindings.portable_lib")
    with reading(path, "ExecuTorch program"), telling_the_operator(path):
        library._unsafe_reset_threadpool(threads)
        program = runtime.Runtime.get().load_program(read_bytes(path), verification=runtime.Verification.Minimal)
        method = program.load_method(FORWARD)
    if method is None:
        raise StageError(f"{path}: it has no method {FORWARD}")

    def execute(inputs: list[Any], owner: Any = program) -> Any:  # noqa: ARG001 - it lives for as long as this does
        return method.execute(inputs)

    return execute


def _bounded(tensor: Tensor) -> list[int | str]:
    """The axes in words: of one that may be smaller, the batch alone is."""
    batch, *others = tensor.sizes
    return [f"1..{batch}" if tensor.dynamic else batch, *others]


OPENERS: dict[str, Callable[[Path], Runtime]] = {
    ".pt": PyTorchRuntime,
    ".onnx": OnnxRuntime,
    ".mlpackage": CoreMLRuntime if platform.system() == "Darwin" else ReferenceRuntime,
    ".aimodel": CoreAIRuntime,
    ".pte": ExecuTorchRuntime,
}
"""The runtime behind each suffix."""

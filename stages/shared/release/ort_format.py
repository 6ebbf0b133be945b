"""An ONNX file in ORT format, which builds of ONNX Runtime for mobile load, and the operators that such a build needs.

ONNX Runtime's own converter writes both. Its files differ from run to run, and no byte of the model is to blame: the
table of types that kernels are looked up by is written in the order of a hash table whose seed is an address, and the
list of operators names the file by its absolute path. Here both get one order and plain names.

An ORT file is a FlatBuffer (https://flatbuffers.dev/internals/), written from its end to its beginning: first the
model, then the table, then the root, which points to both. So the end of the file, the model, stays as it is, and what
stands before it is written anew.
"""

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

from shared.execution.runtimes import OnnxRuntime
from shared.files.quiet import import_onnxruntime_tools
from shared.kit.stage import StageError, one_line, read_bytes, write_bytes
from shared.release.golden import Asked, Vector, ask_runtime, error_of, tolerance_of

IDENTIFIER = b"ORTM"
ALIGNMENT = 16
"""Bytes: no value in an ORT file needs a larger one."""


def ask_in_ort_format(asked: Asked, folder: Path, vectors: list[Vector]) -> Asked:
    """Convert an ONNX file that was asked, into a folder, and ask what came out.

    Raises:
        StageError: It cannot be converted, or the new file is called otherwise or computes something else.
    """
    path = convert(asked.path, folder)
    found = ask_runtime(OnnxRuntime(path, made_from=asked.path), path, vectors)
    if found.runtime.interface != asked.runtime.interface:
        raise StageError(f"{path.name}: its tensors are not those of {asked.path.name}")
    error, allowed = error_of(found.logits, asked.logits), tolerance_of(asked.path)
    if not error <= allowed:
        what = f"its logits are {error:.1e} off those of {asked.path.name}"
        raise StageError(f"{path.name}: {what}; allowed: {allowed:g}")
    return found


def convert(source: Path, folder: Path) -> Path:
    """Write an ONNX file in ORT format into a folder, and beside it the operators that a build of the runtime needs.

    The graph is optimised as it is when the ONNX file is opened, but for the layout of convolutions, which is a matter
    of one kind of processor. The list of operators ends in `.required_operators.config`.

    Raises:
        StageError: ONNX Runtime cannot convert it.
    """
    converter = import_onnxruntime_tools("convert_onnx_models_to_ort")
    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            converter.convert_onnx_models_to_ort(source, folder, [converter.OptimizationStyle.Fixed])
    except Exception as error:  # what the runtime raises has no common base
        raise StageError(f"{source.name}: not converted to ORT format: {one_line(error)}") from None
    model = folder / f"{source.stem}.ort"
    operators = model.with_suffix(".required_operators.config")
    write_bytes(model, in_one_order(read_bytes(model)))
    write_bytes(operators, operators.read_bytes().replace(f"{folder.resolve()}/".encode(), b""))
    return model


def in_one_order(content: bytes) -> bytes:
    """The same ORT file with its table of types in one order: a function of what the file holds alone."""
    import flatbuffers

    import_onnxruntime_tools("ort_format_model")  # makes the next one importable
    from ort_flatbuffers_py.fbs import InferenceSession as Session

    session = Session.InferenceSession.GetRootAs(content, 0)
    model = session.Model()._tab.Pos  # there is no public way to where a table lies
    description = model - int.from_bytes(content[model : model + 4], "little", signed=True)
    kept = content[min(model, description) :]

    builder = flatbuffers.Builder(2 * len(content))
    builder.minalign = ALIGNMENT
    builder.head -= len(kept)
    builder.Bytes[builder.head :] = kept
    version = builder.CreateString(session.OrtVersion())
    table = _write_types(builder, session.KernelTypeStrResolver())
    Session.Start(builder)
    Session.AddOrtVersion(builder, version)
    Session.AddModel(builder, len(content) - model)  # counted from the end
    Session.AddKernelTypeStrResolver(builder, table)
    builder.Finish(Session.End(builder), IDENTIFIER)
    return bytes(builder.Output())


def _write_types(builder: Any, resolver: Any) -> int:
    """Write the table: of each operator its type parameters, of each of these the inputs and outputs that have it."""
    from ort_flatbuffers_py.fbs import ArgTypeAndIndex as Argument
    from ort_flatbuffers_py.fbs import KernelTypeStrArgsEntry as Parameter
    from ort_flatbuffers_py.fbs import KernelTypeStrResolver as Resolver
    from ort_flatbuffers_py.fbs import OpIdKernelTypeStrArgsEntry as Operator

    def write(kind: Any, **fields: Any) -> int:
        kind.Start(builder)
        for name, value in fields.items():
            getattr(kind, f"Add{name}")(builder, value)
        return int(kind.End(builder))

    def write_all(start: Any, offsets: list[int]) -> int:
        start(builder, len(offsets))
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    operators = []
    for operator in map(resolver.OpKernelTypeStrArgs, range(resolver.OpKernelTypeStrArgsLength())):
        parameters = []
        for parameter in map(operator.KernelTypeStrArgs, range(operator.KernelTypeStrArgsLength())):
            found = map(parameter.Args, range(parameter.ArgsLength()))
            arguments = [write(Argument, ArgType=each.ArgType(), Index=each.Index()) for each in found]
            name = builder.CreateString(parameter.KernelTypeStr())
            listed = write_all(Parameter.StartArgsVector, arguments)
            parameters.append(write(Parameter, KernelTypeStr=name, Args=listed))
        name = builder.CreateString(operator.OpId())
        listed = write_all(Operator.StartKernelTypeStrArgsVector, parameters)
        operators.append(write(Operator, OpId=name, KernelTypeStrArgs=listed))
    return write(Resolver, OpKernelTypeStrArgs=write_all(Resolver.StartOpKernelTypeStrArgsVector, operators))

"""Open an exported file, change it and write it back: what the tests corrupt files with."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.files.quiet import import_coremltools

import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[Any]


class Onnx:
    """An ONNX file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = onnx.load(path)
        self.graph = self.model.graph

    def save(self) -> None:
        onnx.save(self.model, self.path)

    def node(self, op_type: str) -> onnx.NodeProto:
        """The first node of a type."""
        found: onnx.NodeProto = next(node for node in self.graph.node if node.op_type == op_type)
        return found

    def name(self, op_type: str, index: int) -> str:
        """The name of a node's input."""
        return str(self.node(op_type).input[index])

    def constant(self, name: str) -> Array:
        return onnx.numpy_helper.to_array(next(tensor for tensor in self.graph.initializer if tensor.name == name))

    def set_constant(self, name: str, value: Array) -> None:
        for tensor in self.graph.initializer:
            if tensor.name == name:
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
                return
        self.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))

    def set_attribute(self, op_type: str, name: str, value: Any) -> None:
        node = self.node(op_type)
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    def prepend(self, op_type: str, *inputs: str, **attributes: Any) -> None:
        """Put a node between the input and whatever reads it; it reads the input and further ones."""
        name = self.graph.input[0].name
        for node in self.graph.node:
            node.input[:] = ["changed" if each == name else each for each in node.input]
        self.graph.node.insert(0, onnx.helper.make_node(op_type, [name, *inputs], ["changed"], **attributes))

    def append(self, op_type: str, *inputs: str, **attributes: Any) -> None:
        """Put a node between the logits and the output."""
        name = self.graph.output[0].name
        for node in self.graph.node:
            node.output[:] = ["unchanged" if each == name else each for each in node.output]
        self.graph.node.append(onnx.helper.make_node(op_type, ["unchanged", *inputs], [name], **attributes))

    def metadata(self, **values: str | None) -> None:
        """Set or, with None, delete entries."""
        kept = {entry.key: entry.value for entry in self.model.metadata_props} | values
        del self.model.metadata_props[:]
        onnx.helper.set_model_props(self.model, {key: value for key, value in kept.items() if value is not None})


BLOB = struct.Struct("<IIQQ")
"""What `weight.bin` holds of each tensor, at the offset that the program names: sentinel, dtype, bytes, offset."""

SENTINEL = 0xDEADBEEF
BLOB_DTYPES = {1: np.float16, 2: np.float32, 3: np.uint8, 4: np.int8}


class Package:
    """A saved mlpackage: its program as protobuf, its weights as bytes."""

    def __init__(self, path: Path) -> None:
        import_coremltools()
        from coremltools.proto import Model_pb2

        self.path = path
        self.model_file = path / "Data/com.apple.CoreML/model.mlmodel"
        self.weights_file = path / "Data/com.apple.CoreML/weights/weight.bin"
        self.spec = Model_pb2.Model.FromString(self.model_file.read_bytes())
        self.weights = bytearray(self.weights_file.read_bytes())
        self.function = self.spec.mlProgram.functions["main"]
        [self.block] = self.function.block_specializations.values()

    def save(self) -> None:
        self.model_file.write_bytes(self.spec.SerializeToString())
        self.weights_file.write_bytes(self.weights)

    def op(self, op_type: str) -> Any:
        """The first operation of a type."""
        return next(op for op in self.block.operations if op.type == op_type)

    def value(self, op_type: str, argument: str, index: int = 0) -> Any:
        """What an operation is given as a constant: the first operation of its type, or a later one."""
        op = [op for op in self.block.operations if op.type == op_type][index]
        if argument in op.attributes:
            return op.attributes[argument]
        [given] = op.inputs[argument].arguments
        if given.HasField("value"):
            return given.value
        return next(op for op in self.block.operations if op.outputs[0].name == given.name).attributes["val"]

    def get(self, op_type: str, argument: str, index: int = 0) -> Array:
        """The numbers of a constant, from the weights' file or from the program."""
        value = self.value(op_type, argument, index)
        shape = [dimension.constant.size for dimension in value.type.tensorType.dimensions]
        if value.HasField("blobFileValue"):
            sentinel, dtype, size, offset = BLOB.unpack_from(self.weights, value.blobFileValue.offset)
            assert sentinel == SENTINEL
            return np.frombuffer(bytes(self.weights[offset : offset + size]), BLOB_DTYPES[dtype]).reshape(shape)
        tensor = value.immediateValue.tensor
        if tensor.HasField("bytes"):
            return np.frombuffer(tensor.bytes.values, np.float16).reshape(shape)
        return np.array(tensor.floats.values, np.float32).reshape(shape)

    def set(self, op_type: str, argument: str, values: Array, index: int = 0) -> None:
        """Overwrite the numbers of a constant by as many."""
        value, old = self.value(op_type, argument, index), self.get(op_type, argument, index)
        assert values.shape == old.shape
        with np.errstate(over="ignore"):
            values = values.astype(old.dtype)
        if value.HasField("blobFileValue"):
            _, _, size, offset = BLOB.unpack_from(self.weights, value.blobFileValue.offset)
            self.weights[offset : offset + size] = values.tobytes()
        elif value.immediateValue.tensor.HasField("bytes"):
            value.immediateValue.tensor.bytes.values = values.tobytes()
        else:
            value.immediateValue.tensor.floats.values[:] = values.ravel().tolist()

    def set_string(self, op_type: str, argument: str, value: str) -> None:
        """Set what an operation is given as a string."""
        self.value(op_type, argument).immediateValue.tensor.strings.values[:] = [value]

    @property
    def metadata(self) -> Any:
        return self.spec.description.metadata.userDefined


def edit_onnx(edit: Callable[[Onnx], None]) -> Callable[[Path], None]:
    """Make a change of a file out of a change of an opened one."""

    def apply(path: Path) -> None:
        file = Onnx(path)
        edit(file)
        file.save()

    return apply


def edit_package(edit: Callable[[Package], None]) -> Callable[[Path], None]:
    """Make a change of a file out of a change of an opened one."""

    def apply(path: Path) -> None:
        file = Package(path)
        edit(file)
        file.save()

    return apply

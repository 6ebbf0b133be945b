"""Damaged packages: one line that names the file, never a traceback of protobuf or a crash."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.coreml_reference import CoreMLReference, CoreMLReferenceError, PackageError
from shared.coreml_reference.program import load_program

import numpy as np
import pytest

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture
def package(classifier_fp32: Path, tmp_path: Path) -> Path:
    return shutil.copytree(classifier_fp32, tmp_path / "model.mlpackage")


def refusal(package: Path) -> str:
    with pytest.raises(PackageError) as caught:
        CoreMLReference(package)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(file: Path, change: Callable[..., Any]) -> None:
    file.write_bytes(change(file.read_bytes()))


def edit_manifest(package: Path, path: str) -> None:
    file = package / "Manifest.json"
    manifest = json.loads(file.read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
    file.write_text(json.dumps(manifest))


def test_no_package(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing.mlpackage").endswith("nothing.mlpackage: no such package")


def test_a_file(package: Path) -> None:
    assert "a file; a .mlpackage is a folder" in refusal(package / MODEL)


def test_no_manifest(package: Path) -> None:
    (package / "Manifest.json").unlink()
    assert "no Manifest.json in it" in refusal(package)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rootModelIdentifier": "a", "itemInfoEntries": {}}', "[" * 100_000])
def test_a_manifest_without_a_root_model(package: Path, text: str) -> None:
    (package / "Manifest.json").write_text(text)
    assert "Manifest.json: does not name the root model" in refusal(package)


@pytest.mark.parametrize("path", ["../../other/model.mlmodel", "/etc/passwd", "a/../../../b"])
def test_a_manifest_that_points_outside(package: Path, path: str) -> None:
    edit_manifest(package, path)
    assert "leads out of the package" in refusal(package)


@pytest.mark.parametrize("path", ["a" * 5000, "\ud800", 5, None, ["a"], "", "a\0b", "a/" * 3000])
def test_a_manifest_that_points_nowhere(package: Path, path: Any) -> None:
    edit_manifest(package, path)
    assert len(refusal(package)) < 1000


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS, "Data", "Data/com.apple.CoreML"])
def test_a_link_out_of_the_package(package: Path, tmp_path: Path, name: str) -> None:
    elsewhere = (package / name).rename(tmp_path / "elsewhere")
    (package / name).symlink_to(elsewhere)
    assert "a symbolic link that leads out of the package" in refusal(package)


def test_a_link_inside_the_package_and_one_to_it(package: Path, tmp_path: Path) -> None:
    (package / WEIGHTS).rename(package / "Data" / "kept")
    (package / WEIGHTS).symlink_to(package / "Data" / "kept")
    linked = tmp_path / "linked.mlpackage"
    linked.symlink_to(package)
    assert CoreMLReference(linked).outputs


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS])
def test_a_pipe_instead_of_a_file(package: Path, name: str) -> None:
    (package / name).unlink()
    os.mkfifo(package / name)
    assert refusal(package)


@pytest.mark.parametrize("name", ["Manifest.json", MODEL])
def test_a_sparse_file_that_no_memory_can_hold(package: Path, name: str) -> None:
    with (package / name).open("r+b") as file:
        file.truncate(200 * 2**30)
    assert "bytes; at most 2147483647 are possible" in refusal(package)


def test_a_default_shape_that_no_memory_can_hold(package: Path) -> None:
    def change(description: Any) -> None:
        array = description.input[0].type.multiArrayType
        array.shape[0] = 30_000_000_000
        array.shapeRange.sizeRanges[0].upperBound = -1

    edit_description(package, change)
    assert "which no memory can hold" in refusal(package)


def test_no_model_file(package: Path) -> None:
    (package / MODEL).unlink()
    assert "model.mlmodel: missing, though the manifest names it" in refusal(package)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_a_truncated_model(package: Path, share: float) -> None:
    edit(package / MODEL, lambda content: content[: int(len(content) * share)])
    assert "model.mlmodel: " in refusal(package)


def test_another_kind_of_model(package: Path) -> None:
    from coremltools.proto.Model_pb2 import Model

    spec = Model(specificationVersion=4)
    spec.neuralNetwork.SetInParent()
    (package / MODEL).write_bytes(spec.SerializeToString())
    assert "holds neuralNetwork; expected an mlProgram" in refusal(package)


def test_no_weights(package: Path) -> None:
    (package / WEIGHTS).unlink()
    assert "weight.bin: missing, though the program keeps weights in it" in refusal(package)


@pytest.mark.parametrize("kept", [0, 3, 64, 100, 5000, -1])
def test_truncated_weights(package: Path, kept: int) -> None:
    edit(package / WEIGHTS, lambda content: content[:kept])
    assert "weight.bin: " in refusal(package)


@pytest.mark.parametrize(("offset", "message"), [(4, "not a file of weights"), (64, "no weight at offset 64")])
def test_weights_with_a_bad_magic(package: Path, offset: int, message: str) -> None:
    edit(package / WEIGHTS, lambda content: content[:offset] + b"\x99" + content[offset + 1 :])
    assert message in refusal(package)


def edit_operations(package: Path, change: Callable[..., Any]) -> None:
    from coremltools.proto.Model_pb2 import Model

    spec = Model.FromString((package / MODEL).read_bytes())
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    change(block.operations)
    (package / MODEL).write_bytes(spec.SerializeToString())


def test_a_weight_outside_the_package(package: Path) -> None:
    def change(operations: Any) -> None:
        for operation in operations:
            operation.attributes["val"].blobFileValue.fileName = "@model_path/weights/../../secret"

    edit_operations(package, change)
    assert "a weight is in '@model_path/weights/../../secret'; expected a file in" in refusal(package)


def test_a_name_of_any_length_and_form_is_part_of_one_line(package: Path) -> None:
    with pytest.raises(PackageError) as caught:
        CoreMLReference(package, "x\n" * 5000)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1100


def test_an_unknown_op(package: Path) -> None:
    edit_operations(package, lambda operations: setattr(operations[-1], "type", "teleport"))
    assert "unknown op 'teleport'" in refusal(package)


@pytest.mark.parametrize("changed", ["dtype", "size", "rank", "swapped"])
def test_a_constant_is_of_the_type_that_the_file_declares(package: Path, changed: str) -> None:
    """As any other result: coremltools itself takes the type of the value, and leaves the declared one unread."""
    from coremltools.proto.MIL_pb2 import DataType

    contradicted: list[str] = []

    def change(operations: Any) -> None:
        for operation in operations:
            if operation.type == "const" and operation.outputs[0].type.tensorType.rank == 2 and not contradicted:
                declared = operation.outputs[0].type.tensorType
                sizes = [dimension.constant.size for dimension in declared.dimensions]
                contradicted.append(operation.outputs[0].name)
                if changed == "dtype":
                    declared.dataType = DataType.Value("FLOAT16")
                elif changed == "size":
                    declared.dimensions[0].constant.size += 1
                elif changed == "rank":
                    declared.rank -= 1
                    del declared.dimensions[0]
                else:
                    for dimension, size in zip(declared.dimensions, reversed(sizes), strict=True):
                        dimension.constant.size = size
                assert sizes[0] != sizes[1]

    edit_operations(package, change)
    assert f"const {contradicted[0]!r} holds fp32 (" in refusal(package)


@pytest.mark.parametrize("changed", ["dtype", "size"])
def test_a_compressed_constant_is_of_the_type_that_the_file_declares(
    save_program: Callable[..., Path], changed: str
) -> None:
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.proto.MIL_pb2 import DataType

    def program(x: Any) -> Any:
        table, indices = np.array([1, 2], np.float32), np.array([5], np.uint8)
        weight = mb.constexpr_lut_to_dense(lut=table, indices=indices, shape=np.array([2, 2], np.uint32))
        return mb.matmul(x=x, y=weight)

    def change(operations: Any) -> None:
        (operation,) = (operation for operation in operations if operation.type == "constexpr_lut_to_dense")
        declared = operation.outputs[0].type.tensorType
        if changed == "dtype":
            declared.dataType = DataType.Value("FLOAT16")
        else:
            declared.dimensions[0].constant.size = 3

    path = save_program(program, (1, 2))
    assert next(iter(CoreMLReference(path).predict({"x": [[1, 10]]}).values())).tolist() == [[22, 11]]
    edit_operations(path, change)
    assert "holds fp32 (2, 2); declared fp" in refusal(path)


def edit_description(package: Path, change: Callable[..., Any]) -> None:
    from coremltools.proto.Model_pb2 import Model

    spec = Model.FromString((package / MODEL).read_bytes())
    change(spec.description)
    (package / MODEL).write_bytes(spec.SerializeToString())


def test_a_description_that_is_not_of_the_program(package: Path) -> None:
    edit_description(package, lambda description: setattr(description.output[0], "name", "label"))
    assert "its description has the outputs ['label'], its program ['logits']" in refusal(package)


@pytest.mark.parametrize("size", [-1, 2**40])
def test_an_input_that_no_memory_can_hold(package: Path, size: int) -> None:
    def change(description: Any) -> None:
        description.input[0].type.multiArrayType.shape[0] = size

    edit_description(package, change)
    assert f"'sequence' has the shape ({size}, 6, 1), which no memory can hold" in refusal(package)


def test_an_op_that_reads_its_own_result(package: Path) -> None:
    def change(operations: Any) -> None:
        operations[-1].inputs["x"].arguments[0].name = operations[-1].outputs[0].name

    edit_operations(package, change)
    assert "not a valid program (KeyError" in refusal(package)


def test_random_damage_is_an_error_or_harmless(package: Path) -> None:
    """Flip, drop and repeat bytes anywhere in a package; whatever still loads can still be asked to predict."""
    source = random.Random(0)
    files = [package / "Manifest.json", package / MODEL, package / WEIGHTS]
    pristine = [file.read_bytes() for file in files]
    loaded, lines = 0, set()
    for _ in range(150):
        (index,) = source.choices(range(3), [1, 3, 1])
        content = bytearray(pristine[index])
        for _ in range(source.randint(1, 3)):
            start, length = source.randrange(len(content)), source.randint(1, 8)
            repeated = content[start : start + 2 * length]
            content[start : start + length] = source.choice([source.randbytes(length), b"", repeated])
        files[index].write_bytes(content)
        try:
            model = CoreMLReference(package)
            model.predict({name: np.ones(feature.shape) for name, feature in model.inputs.items()})
            loaded += 1
        except CoreMLReferenceError as error:
            lines.add(str(error).count("\n"))
        finally:
            files[index].write_bytes(pristine[index])
    assert 0 < loaded < 150
    assert lines == {0}


def test_only_one_functions_weights_are_read(classifier_fp32: Path) -> None:
    program = load_program(classifier_fp32)
    assert program.function_names == ("main",)
    assert program.declared_shapes["logits"] == (None, 3)


def test_a_default_that_coremltools_saves_but_refuses_to_load(save_program: Callable[..., Path]) -> None:
    """The `epsilon` left out here is stored in float32, and every other input in float16."""
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

    statistics = np.array([1, 4], np.float16)
    path = save_program(
        lambda x: mb.batch_norm(x=x, mean=statistics, variance=statistics),
        mb.TensorSpec(shape=(1, 2, 1), dtype=types.fp16),
    )
    (result,) = CoreMLReference(path).predict({"x": np.array([[[3], [6]]])}).values()
    np.testing.assert_allclose(result.ravel(), [2, 1], atol=1e-3)

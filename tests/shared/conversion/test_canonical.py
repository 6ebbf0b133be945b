"""Equal models give equal bytes."""

import json
import shutil
from pathlib import Path

from shared.conversion.canonical import canonical_onnx, canonicalize_mlpackage, number_names
from shared.files.quiet import import_coremltools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

ct = import_coremltools()


def onnx_model(trace: str, version: str) -> onnx.ModelProto:
    """One branch in a subgraph, with notes of the machine that wrote it everywhere."""
    result = helper.make_tensor_value_info("branch", TensorProto.FLOAT, [1])
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["x"], ["branch"], doc_string=trace)], op, [], [result], doc_string=trace
        )
        for op in ("Neg", "Abs")
    ]
    node = helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1])
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1], doc_string=trace),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    graph = helper.make_graph([node], "graph", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, doc_string=trace)
    model.producer_name, model.producer_version = "pytorch", version
    for notes in (model, node, graph, branches[0].node[0]):
        entry = notes.metadata_props.add()
        entry.key, entry.value = "source", trace
    graph.node[0].CopyFrom(node)
    return model


def test_an_onnx_file_depends_on_no_notes_of_the_machine() -> None:
    here, there = (
        canonical_onnx(onnx_model(trace, version), {"b": "2", "a": "1"})
        for trace, version in (("/home/one/model.py", "2.13.0+cpu"), ("/srv/two/model.py", "2.13.0+cu130"))
    )
    assert here == there
    assert b"model.py" not in here
    stored = onnx.load_from_string(here)
    assert [(entry.key, entry.value) for entry in stored.metadata_props] == [("a", "1"), ("b", "2")]
    assert stored.producer_version == "2.13.0"


def test_an_onnx_file_computes_what_it_did_and_its_source_is_left_alone() -> None:
    model = onnx_model("/home/one/model.py", "2.13.0")
    before = model.SerializeToString()
    session = ort.InferenceSession(canonical_onnx(model, {}), providers=["CPUExecutionProvider"])
    assert model.SerializeToString() == before
    for flag, expected in ((True, -2.0), (False, 2.0)):
        [found] = session.run(None, {"x": np.array([2], np.float32), "flag": np.array(flag)})
        assert found == [expected]


@pytest.fixture
def package(small_run: Path, tmp_path: Path) -> Path:
    """The small run's package, as it would be after another save: new identifiers, a date, another order."""
    path = tmp_path / "classifier.mlpackage"
    shutil.copytree(small_run / "models/coreml/classifier-fp16.mlpackage", path)
    manifest_file = path / "Manifest.json"
    manifest = json.loads(manifest_file.read_text())
    identifiers = {
        old: f"00000000-0000-0000-0000-{number:012}" for number, old in enumerate(manifest["itemInfoEntries"])
    }
    text = manifest_file.read_text()
    for old, new in identifiers.items():
        text = text.replace(old, new)
    manifest_file.write_text(json.dumps(json.loads(text)))
    model_file = path / "Data/com.apple.CoreML/model.mlmodel"
    spec = ct.proto.Model_pb2.Model.FromString(model_file.read_bytes())
    spec.description.metadata.userDefined["com.github.apple.coremltools.conversion_date"] = "2031-01-01"
    spec.description.metadata.userDefined["com.github.apple.coremltools.source"] = "torch==2.13.0+cu130"
    model_file.write_bytes(spec.SerializeToString())
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_package_saved_again_has_the_same_bytes(small_run: Path, package: Path) -> None:
    original = files(small_run / "models/coreml/classifier-fp16.mlpackage")
    assert files(package) != original
    canonicalize_mlpackage(package)
    assert files(package) == original


def test_a_package_is_still_one_that_coremltools_opens(package: Path) -> None:
    canonicalize_mlpackage(package)
    opened = ct.models.MLModel(str(package), skip_model_load=True)
    metadata = dict(opened.user_defined_metadata)
    assert json.loads(metadata["classes"]) == ["0", "1", "2"]
    assert metadata["com.github.apple.coremltools.source"] == "torch==2.13.0"
    assert "com.github.apple.coremltools.conversion_date" not in metadata


@pytest.mark.parametrize("variant", ["fp16", "sparse50_palette4"])
def test_looking_at_a_package_changes_nothing(variant: str, small_run: Path, tmp_path: Path) -> None:
    """coremltools rewrites the manifest of each package that it opens; to DVC, later stages would have changed."""
    original = small_run / f"models/coreml/classifier-{variant}.mlpackage"
    path = tmp_path / original.name
    shutil.copytree(original, path)
    ct.models.MLModel(str(path), skip_model_load=True)
    assert (path / "Manifest.json").stat().st_mtime_ns > (original / "Manifest.json").stat().st_mtime_ns
    assert files(path) == files(original)


def test_the_exporter_s_own_numbers_do_not_reach_the_file() -> None:
    """Nor do names of the graphs inside of nodes; what a user or the net has named stays."""

    def numbered(first: int) -> onnx.ModelProto:
        model = onnx.parser.parse_model(f"""
            <ir_version: 10, opset_import: ["" : 20]>
            main (float[N] val_1) => (float[N] logits)
            <float[1] net_weight = {{2.0}}, float[1] val_{first} = {{3.0}}, bool val_{first + 1} = {{1}}> {{
                [node_{first}] val_{first + 2} = Mul(val_1, net_weight)
                [node_{first + 1}] logits = If(val_{first + 1}) <
                    then_branch = then () => (float[N] val_{first + 4}) {{
                        [node_{first + 2}] val_{first + 3} = Add(val_{first + 2}, val_{first})
                        val_{first + 4} = Neg(val_{first + 3})
                    }},
                    else_branch = other () => (float[N] val_{first + 5}) {{ val_{first + 5} = Abs(val_{first + 2}) }}
                >
            }}""")
        model = onnx.load_from_string(model.SerializeToString().replace(b"net_weight", b"net.weight"))
        number_names(model)
        onnx.checker.check_model(model, full_check=True)
        return model

    found = numbered(7)
    assert found == numbered(8)
    assert [node.name for node in found.graph.node] == ["mul_0", "if_1"]
    assert [tensor.name for tensor in found.graph.initializer] == ["net.weight", "val_3", "val_2"]
    assert ([value.name for value in found.graph.input], found.graph.node[0].output) == (["val_1"], ["val_0"])
    session = ort.InferenceSession(found.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"val_1": np.ones(2, np.float32)})[0].tolist() == [-5.0, -5.0]

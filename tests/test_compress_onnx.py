"""Variants of an ONNX file: they are what their names say, for every architecture, and compute nearly the same."""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import compress_onnx
import export_onnx
from commands.benchmarks.stock_export import export_stock
from shared.data.sequences import Prepared, Split, SplitArrays
from shared.execution.runtimes import Floats, open_runtime
from shared.files.inspection import inspect_file
from shared.files.integer_sums import integer_sums
from shared.kit.stage import StageError
from shared.network.architectures import ARCHITECTURES
from shared.network.model import Checkpoint, SequenceClassifier
from tests.support import EXPORT_NAMES, Workspace, classifier, clean_environment, write_prepared

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import quantize_dynamic

PARAMS = compress_onnx.Params(variants=["fp16"], minimum_share=0.9, calibration_rows=64)
ERRORS = {"fp16": 2e-3, "int8": 0.03, "int8_weights": 0.03, "int8_static": 0.06}
RECURRENT = {"GRU", "LSTM", "RNN"}  # ops that compute in float32 alone
RAGGED = [False, True]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Prepared]:
    """Sequences of two features and five steps, all of one length or not."""
    found = {}
    for ragged in RAGGED:
        folder = tmp_path_factory.mktemp("prepared") / "data"
        generator = np.random.default_rng(0)
        rows: dict[Split, int] = {"train": 64, "validation": 1, "test": 50}
        splits = {split: random_rows(count, generator, ragged=ragged) for split, count in rows.items()}
        write_prepared(folder, splits, ["x", "y"], ["on", "off", "none"])
        found[ragged] = Prepared(folder)
    return found


def random_rows(count: int, generator: np.random.Generator, *, ragged: bool) -> SplitArrays:
    sequences = generator.normal(size=(count, 5, 2)).astype(np.float32)
    lengths = generator.integers(1, 6, count, np.int32) if ragged else None
    return SplitArrays(sequences, np.zeros(count, np.int64), lengths)


def row_by_row(path: Path, data: Prepared) -> Floats:
    runtime, test = open_runtime(path), data.split("test")
    return np.concatenate(
        [
            runtime.logits(test.sequences[row : row + 1], None if test.lengths is None else test.lengths[row : row + 1])
            for row in range(len(test.sequences))
        ]
    )


def export(model: SequenceClassifier, path: Path, *, dynamic_time: bool = False) -> bytes:
    names = EXPORT_NAMES.model_copy(update={"dynamic_time": dynamic_time})
    content = export_onnx.export_onnx(Checkpoint(model, {"validation_loss": 0.125}), names, 20).lean
    path.write_bytes(content)
    return content


def relative_error(found: Floats, expected: Floats) -> float:
    return float(np.sqrt(np.square(found - expected).mean()) / expected.std())


OPTIONS: dict[str, dict[str, Any]] = {"lstm": {"layers": 2, "bidirectional": True}, "gru": {"bidirectional": True}}


@pytest.mark.parametrize(("architecture", "ragged"), [("lstm", False), *((name, True) for name in ARCHITECTURES)])
def test_every_architecture_in_every_variant(
    architecture: str, ragged: bool, prepared: dict[bool, Prepared], tmp_path: Path
) -> None:
    data = prepared[ragged]
    model = classifier(architecture, ragged=ragged, standardize=ragged, **OPTIONS.get(architecture, {}))
    plain = tmp_path / "classifier.onnx"
    content = export(model, plain)
    expected, facts = row_by_row(plain, data), inspect_file(plain)
    for variant, recipe in compress_onnx.RECIPES.items():
        path = tmp_path / f"classifier-{variant}.onnx"
        path.write_bytes(compress_onnx.compress(content, recipe, data, PARAMS))
        onnx.checker.check_model(path)
        found, runtime = inspect_file(path), open_runtime(path)
        assert found.weights == facts.weights
        if variant == "int8_static" and found.ops.keys() & RECURRENT:
            assert found.share("int8") < 0.1
            continue
        assert found.share(recipe.stored_as) > 0.9
        assert relative_error(row_by_row(path, data), expected) < ERRORS[variant]
        assert runtime.interface == open_runtime(plain).interface
        assert runtime.batch_dependent == (variant == "int8")
        sums = integer_sums(path)
        assert sums is None or sums["exact"]
        assert (sums is not None) == (variant in {"int8", "int8_static"})


def test_the_metadata_stays(prepared: dict[bool, Prepared], tmp_path: Path) -> None:
    content = export(classifier(), tmp_path / "classifier.onnx")
    before = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    assert json.loads(before["classes"]) == ["on", "off", "none"]
    for recipe in compress_onnx.RECIPES.values():
        compressed = onnx.load_from_string(compress_onnx.compress(content, recipe, prepared[False], PARAMS))
        assert {entry.key: entry.value for entry in compressed.metadata_props} == before


def test_the_integers_have_a_scale_for_each_channel(prepared: dict[bool, Prepared], tmp_path: Path) -> None:
    """One row of the recurrent weights is made much smaller than the others: it keeps its precision."""
    model = classifier(hidden_size=16)
    with torch.no_grad():
        model.get_parameter("network.rnn.weight_hh_l0")[1] *= 1e-3
    content = export(model, tmp_path / "classifier.onnx")
    compressed = onnx.load_from_string(
        compress_onnx.compress(content, compress_onnx.RECIPES["int8"], prepared[False], PARAMS)
    )
    [lstm] = [node for node in compressed.graph.node if node.op_type == "DynamicQuantizeLSTM"]
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in compressed.graph.initializer}
    weights = tensors[lstm.input[2]] * tensors[lstm.input[10]][:, None]
    expected = model.get_parameter("network.rnn.weight_hh_l0").detach().numpy()
    expected = np.concatenate([expected[:16], expected[48:], expected[16:48]])  # ONNX: i, o, f, c; torch: i, f, c, o
    np.testing.assert_allclose(weights[0].T, expected, rtol=0, atol=2e-3)
    np.testing.assert_allclose(weights[0].T[1], expected[1], rtol=0, atol=2e-6)


LOGITS = """
import sys
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
rows = np.load(sys.argv[2])
np.save(sys.argv[3], [session.run(None, {session.get_inputs()[0].name: row[None]})[0][0] for row in rows])
"""


@pytest.fixture(scope="module")
def avx2_only(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that is shown a processor with AVX2 and nothing newer."""
    compiler = shutil.which("cc")
    if compiler is None or platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("hides a processor's newer instructions on Linux and x86-64, with a C compiler")
    library = tmp_path_factory.mktemp("avx2_only") / "avx2_only.so"
    source = Path(__file__).with_name("avx2_only.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
    environment = {"LD_PRELOAD": str(library)}
    if subprocess.run(["true"], env=environment, check=False, capture_output=True).returncode == 125:
        pytest.skip("this processor or system cannot trap CPUID")
    return environment


def logits_of(path: Path, rows: Floats, environment: dict[str, str]) -> Floats:
    np.save(path.with_name("rows.npy"), rows)
    saved = path.with_name("logits.npy")
    subprocess.run(
        [sys.executable, "-c", LOGITS, path, path.with_name("rows.npy"), saved],
        env=clean_environment() | environment, check=True,
    )  # fmt: skip
    logits: Floats = np.load(saved)
    return logits


def test_int8_computes_the_same_without_vnni_where_all_eight_bits_would_overflow(
    small_run: Path, avx2_only: dict[str, str], tmp_path: Path
) -> None:
    plain, path = small_run / "models/onnx/classifier-fp32.onnx", tmp_path / "eight_bits.onnx"
    rows = Prepared(small_run / "data/prepared").split("test").sequences[:100]
    expected = logits_of(Path(shutil.copy(plain, tmp_path)), rows, {})
    quantize_dynamic(onnx.load(plain), path, op_types_to_quantize=["LSTM", "MatMul", "Gemm"], per_channel=True)
    assert relative_error(logits_of(path, rows, avx2_only), expected) > ERRORS["int8"]
    path.write_bytes((small_run / "models/onnx/classifier-int8.onnx").read_bytes())
    assert relative_error(logits_of(path, rows, avx2_only), expected) < ERRORS["int8"]
    np.testing.assert_array_equal(logits_of(path, rows, avx2_only), logits_of(path, rows, {}))


def test_half_precision_standardises_and_masks_in_full(prepared: dict[bool, Prepared], tmp_path: Path) -> None:
    """Raw values beyond float16, a tenth apart."""
    model = classifier(ragged=True, standardize=True)
    model.mean.copy_(torch.tensor([1e5, -1e5]))
    model.deviation.copy_(torch.tensor([0.1, 0.1]))
    content = export(model, tmp_path / "classifier.onnx")
    path = tmp_path / "classifier-fp16.onnx"
    path.write_bytes(compress_onnx.compress(content, compress_onnx.RECIPES["fp16"], prepared[True], PARAMS))
    test = prepared[True].split("test")
    raw = (test.sequences * 0.1 + [1e5, -1e5]).astype(np.float32)
    expected, found = (open_runtime(file).logits(raw, test.lengths) for file in (tmp_path / "classifier.onnx", path))
    assert relative_error(found, expected) < 2e-3


@pytest.mark.parametrize("ragged", RAGGED)
@pytest.mark.parametrize("architecture", [name for name, kind in ARCHITECTURES.items() if kind.any_time])
def test_any_number_of_raw_steps_is_read_in_every_variant(
    architecture: str, ragged: bool, prepared: dict[bool, Prepared], tmp_path: Path
) -> None:
    model = classifier(architecture, ragged=ragged)
    plain = tmp_path / "classifier.onnx"
    content = export(model, plain, dynamic_time=True)
    for variant, steps in (("fp16", 2500), ("int8", 20), ("int8_weights", 20)):  # float16 counts to 2048
        rows = np.random.default_rng(0).normal(size=(2, steps, 2)).astype(np.float32)
        lengths = np.array([7, steps], np.int32) if ragged else None
        path = tmp_path / f"classifier-{variant}.onnx"
        path.write_bytes(compress_onnx.compress(content, compress_onnx.RECIPES[variant], prepared[ragged], PARAMS))
        found, expected = (open_runtime(file).logits(rows, lengths) for file in (path, plain))
        assert relative_error(found, expected) < 2 * ERRORS[variant]


def test_a_graph_whose_lstm_the_quantiser_would_skip_in_silence_is_refused(
    prepared: dict[bool, Prepared], tmp_path: Path
) -> None:
    """The stock export computes the initial state and selects with ops that hide the LSTM's constant weights."""
    path = tmp_path / "stock.onnx"
    export_stock(classifier(), (torch.zeros(2, 5, 2),), path)
    model = onnx.load(path)
    assert "LSTM" in {node.op_type for node in model.graph.node}
    with pytest.raises(StageError, match="int8: 1 LSTM nodes were left in float32"):
        compress_onnx.compress(path.read_bytes(), compress_onnx.RECIPES["int8"], prepared[False], PARAMS)


def test_the_default_model_in_int8_takes_a_third(small_run: Path) -> None:
    """The size does not depend on the training."""
    plain, compressed = (inspect_file(small_run / f"models/onnx/classifier-{name}.onnx") for name in ("fp32", "int8"))
    assert compressed.bytes <= 0.35 * plain.bytes
    assert compressed.ops["DynamicQuantizeLSTM"] == 1


def test_a_file_that_is_not_what_its_name_says_is_not_written(workspace: Workspace) -> None:
    workspace.set("compress_onnx.minimum_share", 0.97)
    assert workspace.refuses("compress_onnx@int8").startswith(
        "int8: 96.3% of the weights are stored as int8; minimum_share asks for 97.0%; found 403 float32, 10350 int8; "
    )
    workspace.set("compress_onnx.variants", ["int8_static"])
    assert workspace.refuses("compress_onnx@int8_static").endswith(
        "found 10600 float32, 3 int32, 150 int8; "
        "LSTM has no kernel for others than float32; "
        "take the variant off compress_onnx.variants, or lower compress_onnx.minimum_share"
    )


def test_a_file_that_the_runtime_does_not_survive_is_not_written(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime dies by a signal over a half-precision `Transpose` before a `MatMul`."""

    def crashing(model: onnx.ModelProto, _data: Prepared, _params: compress_onnx.Params) -> onnx.ModelProto:
        nodes = model.graph.node
        half, last = onnx.TensorProto.FLOAT16, nodes[-1]
        weights = np.ones((1, 4), np.float16)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "weights"))
        last.output[0] = "logits_before"
        nodes.extend(
            [
                onnx.helper.make_node("Cast", [model.graph.input[0].name], ["half"], to=half),
                onnx.helper.make_node("Transpose", ["half"], ["turned"], perm=[1, 0, 2]),
                onnx.helper.make_node("MatMul", ["turned", "weights"], ["product"]),
                onnx.helper.make_node("ReduceMax", ["product"], ["largest"], keepdims=0),
                onnx.helper.make_node("Cast", ["largest"], ["added"], to=onnx.TensorProto.FLOAT),
                onnx.helper.make_node("Add", ["logits_before", "added"], [model.graph.output[0].name]),
            ]
        )
        return model

    recipe = compress_onnx.Recipe(crashing, "float32")
    monkeypatch.setitem(compress_onnx.RECIPES, "fp16", recipe)
    assert workspace.refuses("compress_onnx@fp16") == (
        "models/onnx/classifier-fp16.onnx: crashes: the process that ran it was ended by SIGSEGV"
    )


def test_an_unknown_variant_is_named_with_those_that_are_known(workspace: Workspace) -> None:
    files = ("models/onnx/classifier-fp32.onnx", "data/prepared", "models/onnx/classifier-int7.onnx")
    assert workspace.refuses("compress_onnx@int8", *files) == (
        "models/onnx/classifier-int7.onnx: unknown variant 'int7' (did you mean 'int8'?); "
        "known: fp16, int8, int8_weights, int8_static"
    )
    workspace.set("compress_onnx.variants", ["int7"])
    assert "compress_onnx.variants.0 = 'int7': input should be 'fp16', 'int8', 'int8_weights' or 'int8_static'" in (
        workspace.refuses("compress_onnx@int7")
    )


def test_a_damaged_file_is_refused(workspace: Workspace) -> None:
    file = workspace.folder / "models/onnx/classifier-fp32.onnx"
    file.write_bytes(file.read_bytes()[:2000])
    assert workspace.refuses("compress_onnx@fp16").startswith(
        "models/onnx/classifier-fp32.onnx: not a readable ONNX file: "
    )

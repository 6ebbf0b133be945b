"""What each file costs: all of them are measured, by running what their runtimes run, and none by our evaluator."""

import json
import os
import platform
import signal
import time
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import benchmark
import export_onnx
from shared.data.sequences import Prepared, SplitArrays
from shared.execution import cold_start as cold
from shared.execution.isolation import START_METHOD, still_working
from shared.execution.runners import Batch, CoreMLRunner, OnnxRunner, PyTorchRunner
from shared.execution.runtimes import ReferenceRuntime, open_runtime
from shared.files.artifacts import find_artifacts, write_left_out
from shared.kit.stage import StageError
from shared.network.model import Checkpoint, save_checkpoint
from tests.support import EXPORT_NAMES, Workspace, classifier

import numpy as np
import onnx
import pytest
import torch

STOCK = "data/stock.onnx"
LATENCIES = {"pytorch": ["latency_ms"], "onnx": ["latency_ms", "io_binding_latency_ms"]}


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / "metrics" / f"{name}.json").read_text())


def test_every_file_that_runs_here_is_measured(small_run: Path) -> None:
    measured = read(small_run, "benchmark")
    assert list(measured["machine"]) == [
        "cpu", "cores", "memory_gb", "system", "python", "torch", "onnxruntime", "coremltools", "numpy"
    ]  # fmt: skip
    assert measured["machine"]["cores"] == os.cpu_count()
    assert measured["machine"]["cpu"]
    files = measured["files"]
    expected = {name: list(find_artifacts(small_run / "models" / name)) for name in ("pytorch", "onnx", "coreml")}
    expected["onnx"].append("stock")
    assert {name: list(found) for name, found in files.items()} == expected
    for file_format, names in LATENCIES.items():
        for figures in files[file_format].values():
            assert 0 < figures["load_ms"] < 10_000
            assert 0 < figures["peak_memory_mb"] < 200
            for timings in (figures["one_thread"], figures["all_threads"]):
                assert list(timings) == [*names, "batch_64", "best", "best_batch"]
                for name in names:
                    latency = timings[name]
                    assert list(latency) == ["p50", "p50_low", "p50_high", "p95", "p99"]
                    assert 0 < latency["p50_low"] <= latency["p50"] <= latency["p50_high"]
                    assert latency["p50"] <= latency["p95"] <= latency["p99"]
                assert 0 < timings["batch_64"] <= timings["best"]
                assert timings["best_batch"] in (8, 64)
    assert files["onnx"]["stock"]["bytes"] > read(small_run, "size")["onnx"]["fp32"]["bytes"]


@pytest.mark.skipif(platform.system() == "Darwin", reason="Core ML runs here")
def test_core_ml_is_never_timed_on_the_evaluator(small_run: Path) -> None:
    for figures in read(small_run, "benchmark")["files"]["coreml"].values():
        assert figures == {"executor": None, "reason": "Core ML runs on macOS only"}
    with pytest.raises(RuntimeError, match="would run on 'reference', which is never timed"):
        CoreMLRunner(small_run / "models/coreml/classifier-fp16.mlpackage")


def test_sizes_are_of_the_files(small_run: Path) -> None:
    sizes = read(small_run, "size")
    assert sizes["onnx"]["fp32"]["bytes"] == (small_run / "models/onnx/classifier-fp32.onnx").stat().st_size
    assert sizes["onnx"]["fp32"]["nodes"] == 4
    ops = read(small_run, "benchmark")["ops"]
    assert ops["onnx"]["fp32"] == "1 Gemm, 1 LSTM, 1 Squeeze, 1 Transpose"
    assert "1 lstm" in ops["coreml"]["fp16"]
    assert sizes["coreml"]["fp16"]["compressed_share"] == 1
    assert sizes["pytorch"]["fp32"]["weights"] == sizes["onnx"]["fp32"]["weights"] == 10753
    assert all(figures["compressed_bytes"] > 0 for files in sizes.values() for figures in files.values())


def test_a_file_that_cannot_run_hides_no_other(workspace: Workspace) -> None:
    """That it is broken is for `verify` to say; here it has a reason in the place of figures."""
    onnx_folder = workspace.folder / "models" / "onnx"
    content = (onnx_folder / "classifier-fp32.onnx").read_bytes()
    (onnx_folder / "classifier-truncated.onnx").write_bytes(content[:20_000])
    baked = onnx.load_from_string(content)
    baked.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(baked, onnx_folder / "classifier-baked.onnx")
    for variant, path in find_artifacts(onnx_folder).items():
        if variant not in ("baked", "fp32", "truncated"):
            path.unlink()
    before = read(workspace.folder, "size")["onnx"]["fp32"]

    assert workspace.call("benchmark") == ""

    after, measured = (read(workspace.folder, name) for name in ("size", "benchmark"))
    assert after["onnx"].pop("baked")["nodes"] == 4
    assert after["onnx"] == {"fp32": before}
    measured = measured["files"]["onnx"]
    assert list(measured) == ["baked", "fp32", "truncated", "stock"]
    assert measured["fp32"]["one_thread"]["latency_ms"]["p50"] > 0
    for variant, reason in (("truncated", "not a readable ONNX file"), ("baked", "cannot be run")):
        assert list(measured[variant]) == ["executor", "reason"]
        assert measured[variant]["executor"] is None
        assert f"models/onnx/classifier-{variant}.onnx: {reason}: " in measured[variant]["reason"]


def test_where_onnx_is_left_out_there_is_no_stock_export(workspace: Workspace) -> None:
    for path in (*find_artifacts(workspace.folder / "models/onnx").values(), workspace.folder / STOCK):
        write_left_out(path)

    assert workspace.call("benchmark") == ""

    assert read(workspace.folder, "benchmark")["files"].keys() == {"pytorch", "coreml"}
    assert "onnx" not in read(workspace.folder, "size")


def test_without_a_checkpoint_there_is_nothing_to_compare_with(workspace: Workspace) -> None:
    (workspace.folder / "models/pytorch/classifier.pt").unlink()
    assert workspace.refuses("benchmark") == "models/pytorch: no checkpoint in this folder"


def test_what_is_timed_is_what_the_runtimes_compute(small_run: Path) -> None:
    sequences = Prepared(small_run / "data/prepared").split("test").sequences[:64]
    batch = Batch(sequences, None)
    file, checkpoint = small_run / "models/onnx/classifier-fp32.onnx", small_run / "models/pytorch/classifier.pt"
    runner = OnnxRunner(file, threads=2)
    logits = open_runtime(file).logits(sequences)
    assert np.array_equal(np.asarray(runner.call(batch)()), logits)
    bound = runner.bound_call(batch)
    first = np.array(bound())
    assert np.array_equal(first, logits)
    sequences[:] = sequences[::-1].copy()  # a memory map of its own: the file stays as it is
    assert np.array_equal(np.asarray(bound()), first[::-1]), "the input is copied at every call"
    torch.testing.assert_close(
        torch.as_tensor(PyTorchRunner(checkpoint, threads=1).call(batch)()),
        torch.from_numpy(open_runtime(checkpoint).logits(sequences)),
    )


def test_ragged_sequences_are_given_with_their_lengths(tmp_path: Path) -> None:
    model = classifier(ragged=True)
    split = SplitArrays(
        np.random.default_rng(0).random((3, 5, 2), dtype=np.float32),
        np.zeros(3, np.int64),
        np.array([5, 1, 3], np.int32),
    )
    batch = benchmark.first_rows(split, 5)
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [5, 1, 3, 5, 1]
    with torch.inference_mode():
        expected = model(*map(torch.from_numpy, batch.arrays())).numpy()
    save_checkpoint(tmp_path / "classifier.pt", Checkpoint(model, {}))
    stock = export_onnx.export_onnx(Checkpoint(model, {}), EXPORT_NAMES, 20).stock
    (tmp_path / "stock.onnx").write_bytes(stock)

    runner = OnnxRunner(tmp_path / "stock.onnx", threads=1)

    for call in (
        runner.call(batch),
        runner.bound_call(batch),
        PyTorchRunner(tmp_path / "classifier.pt", 1).call(batch),
    ):
        assert np.allclose(np.asarray(call()), expected, atol=1e-6)


def test_core_ml_s_calls_with_the_evaluator_in_its_place(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own runtime is on macOS alone; the two have the same interface."""
    monkeypatch.setattr(ReferenceRuntime, "executor", "coreml")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    path = small_run / "models/coreml/classifier-fp32.mlpackage"
    split = Prepared(small_run / "data/prepared").split("test")

    calls = benchmark.calls_of(CoreMLRunner(path), split, [8, 128])

    assert list(calls) == ["latency_ms", 8, 64], "no batch larger than the file's largest"
    assert np.array_equal(np.asarray(calls[8]()), open_runtime(path).logits(split.sequences[:8]))


def test_peak_memory_is_that_of_the_file_alone(tmp_path: Path) -> None:
    """Not of the process that asks, however large."""
    weights = np.ones((2000, 5000), np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "large",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 2000])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 5000])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "large.onnx")
    own = np.ones(50_000_000)

    with cold.ColdStarts([tmp_path / "large.onnx"], [Batch(np.ones((1, 2000), np.float32), None)]) as starts:
        [found] = starts.measure()

    assert isinstance(found, cold.ColdStart)
    assert weights.nbytes <= found.peak_memory <= 5 * weights.nbytes < own.nbytes
    assert found.load_seconds > 0


def note_when(path: Path, batches: list[Batch], turn: Event) -> dict[str, float]:
    """In the place of `_measure`: the moments at which its turn began and ended, as if they were what it measured."""
    if path.name == "ends.onnx":
        os._exit(1)
    still_working()
    turn.wait()
    start = time.monotonic()
    time.sleep(0.05)
    return {"load_seconds": start, "peak_memory": time.monotonic()}


@pytest.mark.parametrize("side_by_side", [1, 16])
def test_cold_starts_have_their_turns_alone_and_name_a_file_that_ends_its_process(
    monkeypatch: pytest.MonkeyPatch, side_by_side: int
) -> None:
    monkeypatch.setattr(cold, "_measure", note_when)
    monkeypatch.setattr(cold, "SIDE_BY_SIDE", side_by_side)

    with cold.ColdStarts([Path("a.onnx"), Path("ends.onnx"), Path("b.onnx")], []) as starts:
        quiet_at = time.monotonic()
        first, ended, last = starts.measure()

    assert str(ended) == "ends.onnx: the process that ran it ended itself, with exit code 1"
    assert isinstance(first, cold.ColdStart)
    assert isinstance(last, cold.ColdStart)
    assert quiet_at <= first.load_seconds < first.peak_memory <= last.load_seconds < last.peak_memory


def test_of_several_cold_starts_the_median_counts_and_one_failure_is_one_too_many() -> None:
    files = {("onnx", "fp32"): Path("a.onnx"), ("onnx", "int8"): Path("b.onnx")}
    starts: list[cold.ColdStart | StageError] = [
        cold.ColdStart(0.001, 10**6), cold.ColdStart(0.5, 1),
        cold.ColdStart(0.009, 3 * 10**6), StageError("b.onnx: crashes"),
        cold.ColdStart(0.002, 2 * 10**6), cold.ColdStart(0.5, 1),
    ]  # fmt: skip
    assert benchmark.first_uses(files, starts) == (
        {("onnx", "fp32"): {"load_ms": 2.0, "peak_memory_mb": 2.0}},
        {("onnx", "int8"): "b.onnx: crashes"},
    )


def test_a_file_that_crashes_where_nobody_had_tried_it_leaves_the_others_their_figures(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a larger batch than it is tried with first: it ends the process in which all are timed."""
    if START_METHOD != "fork":
        pytest.skip("a process that starts from nothing does not know what this test has changed")

    def open_crashing(path: Path, threads: int) -> OnnxRunner:
        runner = OnnxRunner(path, threads)
        usual = runner.call
        crash = partial(os.kill, os.getpid(), signal.SIGSEGV)
        if "fp16" in path.name:
            monkeypatch.setattr(runner, "call", lambda batch: crash if len(batch.sequences) == 8 else usual(batch))
        return runner

    monkeypatch.setattr(benchmark, "open_runner", open_crashing)
    files = {("onnx", name): small_run / f"models/onnx/classifier-{name}.onnx" for name in ("fp16", "fp32")}
    split = Prepared(small_run / "data/prepared").split("test")
    params = benchmark.Params(rounds=1, turn_seconds=1e-3, batch_sizes=[8], cold_starts=1, seed=0)

    timed, failed = benchmark.time_apart(files, split, 1, params)

    assert list(timed) == [("onnx", "fp32")]
    assert failed == {
        ("onnx", "fp16"): f"{files['onnx', 'fp16']}: crashes: the process that ran it was ended by SIGSEGV"
    }

"""Running every file: in chunks, at other sizes, and row by row where the rest of the batch matters."""

import json
from pathlib import Path

import predict
import verify
from shared.conversion.export import ExportParams
from shared.data.sequences import Prepared
from shared.execution.predictions import Prediction
from shared.execution.runtimes import open_runtime
from shared.judging.limits import VerifyParams
from shared.judging.parity import measure
from shared.params import read_params
from tests.edits import Onnx
from tests.support import Workspace

import numpy as np
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

ONNX = "models/onnx/classifier-fp32.onnx"
PYTORCH = "models/pytorch/classifier.pt"
PARAMS = predict.Params(batch_size=256, probe_batches=[1, 2], probe_times=[3, 20])


def test_a_file_that_depends_on_the_rest_of_the_batch_is_run_row_by_row(small_run: Path, tmp_path: Path) -> None:
    """As ONNX Runtime's dynamic quantisation makes them; told by its ops, whatever its name."""
    path = tmp_path / "classifier-other.onnx"
    quantize_dynamic(small_run / ONNX, path, weight_type=QuantType.QInt8)
    data = Prepared(small_run / "data" / "prepared")
    record = predict.execute(path, data, PARAMS, tmp_path / "logits.npy")
    assert (record["batch_dependent"], record["batch_size"]) == (True, 1)
    assert record["batches"]["1"]["max_absolute_difference"] == 0
    assert record["batches"]["256"]["shape"] == [256, 3]
    assert record["batches"]["256"]["max_absolute_difference"] > 0
    rows, runtime = data.split("test").sequences[:3], open_runtime(path)
    alone = np.concatenate([runtime.logits(rows[i : i + 1]) for i in range(3)])
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy")[:3], alone)


def test_every_other_file_is_run_in_batches(small_run: Path) -> None:
    for file in ("pytorch/fp32", "onnx/fp32", "coreml/fp16"):
        record = json.loads((small_run / "data" / "predictions" / f"{file}.json").read_text())
        assert not record["batch_dependent"]
        assert record["batch_size"] == min(256, record["interface"]["largest_batch"] or 256)


def freeze_time(path: Path, time_steps: int) -> None:
    """Let the graph read the first steps alone, as a time axis does that is dynamic in name only."""
    file = Onnx(path)
    slices = {"start": 0, "end": time_steps, "axis": 1}
    for name, value in slices.items():
        file.set_constant(name, np.array([value], np.int64))
    file.prepend("Slice", *slices)
    file.save()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_time_axis_that_is_dynamic_in_name_alone_is_caught(workspace: Workspace, frozen: bool) -> None:
    workspace.set("export.dynamic_time", True)
    workspace.call("export_onnx")
    path = workspace.folder / ONNX
    if frozen:
        freeze_time(path, 6)
    data = Prepared(workspace.folder / "data" / "prepared")
    files = {"pytorch": workspace.folder / PYTORCH, "onnx": path}
    reference, found = (
        Prediction(name, "fp32", np.load(logits), record)
        for name, file in files.items()
        for logits in [workspace.folder / f"{name}.npy"]
        for record in [predict.execute(file, data, PARAMS, logits)]
    )
    assert list(found.record["probes"]) == list(reference.record["probes"])
    assert {"far", "far@3", "far@20"} <= found.record["probes"].keys()
    losses = {"accuracy_loss": 0.0, "recall_loss": 0.0, "recall_loss_class": "0"}
    names, params = read_params("export", ExportParams), read_params("verify", VerifyParams)
    figures, _ = verify.verify(found, reference, measure(reference.logits), names, params, losses)
    assert bool(figures["problems"]) == frozen
    assert all("far@20" in problem for problem in figures["problems"])

"""Running every file: in chunks, at other sizes, row by row where the rest of the batch matters; each by itself."""

import errno
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import predict
import verify
from shared.conversion.export import ExportParams
from shared.data.sequences import Prepared
from shared.execution import isolation
from shared.execution.onnx_reference import what_is_read_past
from shared.execution.predictions import Prediction
from shared.execution.runtimes import open_runtime
from shared.files.formats import FORMATS, OTHER_EXECUTORS
from shared.judging.inside import FormatJudge
from shared.judging.limits import VerifyParams
from shared.kit.params import read_params
from tests.edits import Onnx
from tests.support import ROOT, Workspace, clean_environment, command, rejections

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnxruntime.quantization import QuantType, quantize_dynamic

ONNX = "models/onnx/classifier-fp32.onnx"
PYTORCH = "models/pytorch/classifier.pt"
PARAMS = predict.Params(
    batch_size=256, probe_batches=[1, 2], probe_times=[3, 20], memory_megabytes=2048, timeout_seconds=300
)
LOCK = ROOT / "web" / "package-lock.json"
NEWEST_OPSET = 27
in_webassembly = pytest.mark.skipif(
    not ((ROOT / "web" / "node_modules").exists() or os.environ.get("CI")),
    reason="onnxruntime-web is not installed; `make web` installs it, with npm",
)
EXECUTORS_AND_FORMATS = {*FORMATS, *OTHER_EXECUTORS}


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
    worth = {"recall": {"0": 1.0}, "accuracy_loss": 0.0, "accuracy_loss_interval": [0.0, 0.0]}
    evaluation = {name: {"fp32": worth} for name in files}
    names, params = read_params("export", ExportParams), read_params("verify", VerifyParams)
    bench = verify.set_up(data, files["pytorch"], [reference, found], evaluation, names, params)
    judge = FormatJudge(path, bench.net, bench.scale)
    figures, _ = verify.verify(found, path, judge, bench)
    assert bool(figures["problems"]) == frozen
    assert all("far@20" in problem for problem in figures["problems"])


def own_onnx(path: Path, nodes: list[onnx.NodeProto], **constants: NDArray[Any]) -> None:
    """Write an ONNX file with the interface of a small run's, from `sequence` (batch, 6, 1) to `logits` (batch, 3)."""
    source, target = (
        make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *sizes])
        for name, sizes in (("sequence", [6, 1]), ("logits", [3]))
    )
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = make_graph(nodes, "own", [source], [target], initializers)
    model = make_model(graph, opset_imports=[make_opsetid("", 20)], ir_version=9)
    onnx.helper.set_model_props(model, {"classes": '["0", "1", "2"]', "features": '["x"]'})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def crashing(path: Path) -> None:
    """Half-precision Transpose -> MatMul, which ends ONNX Runtime 1.32 by signal 11."""
    random = np.random.default_rng(0)
    shapes = {"w": (2, 12, 1), "r": (2, 12, 4), "score": (8, 1), "out": (8, 3)}
    own_onnx(
        path,
        [
            make_node("Cast", ["sequence"], ["half"], to=onnx.TensorProto.FLOAT16),
            make_node("Transpose", ["half"], ["by_time"], perm=[1, 0, 2]),
            make_node("GRU", ["by_time", "w", "r"], ["states"], hidden_size=4, direction="bidirectional"),
            make_node("Transpose", ["states"], ["turned"], perm=[0, 2, 1, 3]),
            make_node("Reshape", ["turned", "joined"], ["both"]),
            make_node("Transpose", ["both"], ["by_row"], perm=[1, 0, 2]),
            make_node("MatMul", ["by_row", "score"], ["scores"]),
            make_node("Mul", ["by_row", "scores"], ["weighed"]),
            make_node("ReduceSum", ["weighed", "time"], ["sum"], keepdims=0),
            make_node("MatMul", ["sum", "out"], ["half_logits"]),
            make_node("Cast", ["half_logits"], ["logits"], to=onnx.TensorProto.FLOAT),
        ],
        joined=np.array([6, -1, 8]),
        time=np.array([1]),
        **{name: random.normal(size=shape).astype(np.float16) for name, shape in shapes.items()},
    )


def hanging(path: Path) -> None:
    """A loop that has no end."""
    state = make_tensor_value_info("state", onnx.TensorProto.FLOAT, ["batch", 3])
    after = make_tensor_value_info("after", onnx.TensorProto.FLOAT, ["batch", 3])
    go_on = [make_tensor_value_info(name, onnx.TensorProto.BOOL, []) for name in ("go_on", "still")]
    step = make_tensor_value_info("step", onnx.TensorProto.INT64, [])
    body = make_graph(
        [make_node("Identity", ["go_on"], ["still"]), make_node("Sin", ["state"], ["after"])],
        "body",
        [step, go_on[0], state],
        [go_on[1], after],
    )
    own_onnx(
        path,
        [
            make_node("Slice", ["sequence", "zero", "three", "one"], ["first"]),
            make_node("Squeeze", ["first", "two"], ["start"]),
            make_node("Loop", ["most", "true", "start"], ["logits"], body=body),
        ],
        most=np.array(2**62),
        true=np.array(True),
        zero=np.array([0]),
        one=np.array([1]),
        two=np.array([2]),
        three=np.array([3]),
    )


def hoarding(path: Path) -> None:
    """Asks for 40 GB as soon as it is run."""
    own_onnx(
        path,
        [
            make_node("Shape", ["sequence"], ["shape"]),
            make_node("Mul", ["shape", "large"], ["huge"]),
            make_node("ConstantOfShape", ["huge"], ["zeros"]),
            make_node("ReduceMax", ["zeros", "axes"], ["nothing"], keepdims=0),
            make_node("Slice", ["sequence", "zero", "three", "one"], ["first"]),
            make_node("Squeeze", ["first", "two"], ["start"]),
            make_node("Add", ["start", "nothing"], ["logits"]),
        ],
        large=np.array([1, 10**5, 10**4]),
        axes=np.array([0, 1, 2]),
        zero=np.array([0]),
        one=np.array([1]),
        two=np.array([2]),
        three=np.array([3]),
    )


def failures(workspace: Workspace) -> dict[str, str | None]:
    """Why each ONNX file could not be executed; None of those that were."""
    folder = workspace.folder / "data/predictions/onnx"
    return {file.stem: json.loads(file.read_text()).get("failure") for file in sorted(folder.glob("*.json"))}


def test_a_file_that_crashes_hangs_or_hoards_takes_no_verdict_from_the_others(workspace: Workspace) -> None:
    models, predictions = workspace.folder / "models/onnx", workspace.folder / "data/predictions/onnx"
    before = {file.name: file.read_bytes() for file in predictions.iterdir()}
    crashing(models / "classifier-a.onnx")
    hanging(models / "classifier-b.onnx")
    hoarding(models / "classifier-c.onnx")
    workspace.set("predict.timeout_seconds", 2)
    workspace.call("predict@onnx")
    if platform.system() == "Linux":
        assert failures(workspace) == {
            "a": "models/onnx/classifier-a.onnx: crashes: the process that ran it was ended by SIGSEGV",
            "b": "models/onnx/classifier-b.onnx: hangs: no batch was done within 2 seconds (predict.timeout_seconds)",
            "c": "models/onnx/classifier-c.onnx: runs out of memory: it asks for more than 2048 MB "
            "(predict.memory_megabytes)",
            **dict.fromkeys(["fp16", "fp32", "int8"]),
        }
    else:
        assert failures(workspace)["b"]
    after = {file.name: file.read_bytes() for file in predictions.iterdir() if file.stem not in "abc"}
    assert after == before
    assert rejections(workspace, "onnx").keys() >= {"a", "b", "c"}


def missing_where(path: Path, value: float) -> None:
    """Fails on a row whose first step has this value: there it looks up what no table holds."""
    own_onnx(
        path,
        [
            make_node("Slice", ["sequence", "zero", "three", "one"], ["first"]),
            make_node("Squeeze", ["first", "two"], ["start"]),
            make_node("Equal", ["start", "value"], ["found"]),
            make_node("Cast", ["found"], ["number"], to=onnx.TensorProto.INT64),
            make_node("Gather", ["table", "number"], ["logits"]),
        ],
        value=np.array(value, np.float32),
        table=np.ones(1, np.float32),
        zero=np.array([0]),
        one=np.array([1]),
        two=np.array([2]),
        three=np.array([3]),
    )


@pytest.mark.skipif(isolation.START_METHOD != "fork", reason="a process that starts from nothing runs all of its file")
def test_any_number_of_processes_gives_the_same_bytes(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a file that is run row by row, and of one that fails in the share of another process than the first."""
    rows = Prepared(workspace.folder / "data" / "prepared").split("test").sequences
    missing_where(workspace.folder / "models/onnx/classifier-a.onnx", rows[-1, 0, 0])
    workspace.set("predict.batch_size", 64)
    found, processes = {}, []
    usual = isolation.all_apart

    def watched(calls: list[isolation.Task], *args: Any) -> list[Any]:
        processes.append(len(calls))
        return usual(calls, *args)

    monkeypatch.setattr(predict, "all_apart", watched)
    for number in (1, 3, 100):
        monkeypatch.setattr(predict, "at_a_time", lambda _, number=number: number)
        workspace.call("predict@onnx")
        found[number] = {
            file.name: file.read_bytes() for file in (workspace.folder / "data/predictions/onnx").iterdir()
        }
    assert found[1] == found[3] == found[100]
    assert processes == [4, 4 * 3, 4 * 7]  # 400 rows are 7 batches
    assert "indices element out of data bounds" in json.loads(found[1]["a.json"])["failure"]
    assert "a.npy" not in found[1]


@pytest.mark.parametrize("batch_size", [1, 7, 512])
@pytest.mark.parametrize("at_first", [1, 100, 5000])
def test_shares_are_all_rows_in_whole_batches(batch_size: int, at_first: int) -> None:
    for count in (1, 511, 512, 1000, 4096):
        for of in (1, 2, 3, 64):
            shares = [predict.Share(number, of).rows(count, batch_size, at_first) for number in range(of)]
            assert [row for share in shares for row in share] == list(range(count))
            assert all(share.start % batch_size == 0 or not share for share in shares)
            assert len(shares[0]) >= min(count, at_first)
            largest = max(map(len, shares[1:]), default=0)
            assert largest <= -(-count // batch_size // of) * batch_size + batch_size


def test_a_few_batches_are_no_work_for_a_second_process_that_starts_node(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without node: whoever would start it leaves the file out
    data, models = Prepared(small_run / "data" / "prepared"), small_run / "models/onnx"
    first, second = (predict.Share(number, of=2) for number in range(2))

    def left_out(variant: str, share: predict.Share) -> bool:
        file, path = tmp_path / "logits.npy", models / f"classifier-{variant}.onnx"
        return "left_out" in predict.execute(path, data, PARAMS, file, "web", share)

    assert left_out("fp32", first)
    assert not left_out("fp32", second)
    assert left_out("int8", second), "each of its rows is a batch"


def in_a_process(workspace: Workspace, name: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run a stage as DVC does."""
    _, script, *paths = command(name)
    return subprocess.run(
        [sys.executable, ROOT / script, *paths],
        cwd=workspace.folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        **kwargs,
    )


def test_a_full_disk_is_the_machine_s_fault_and_leaves_everything_as_it_was(workspace: Workspace) -> None:
    before = workspace.files()
    ran = in_a_process(
        workspace, "predict@onnx", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
    )
    assert (ran.returncode, ran.stderr) == (
        1,
        "predict: error: data/predictions/onnx: not written: File too large\n",
    )
    assert workspace.files() == before


def test_a_file_that_may_not_be_read_is_the_machine_s_fault(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the system's answer is made up; all behind it is real."""
    usual = Path.open

    def refusing(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name.startswith("classifier-fp16"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return usual(path, *args, **kwargs)

    before = workspace.files()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refusing)
        with pytest.raises(SystemExit):
            workspace.call("predict@onnx")
    assert workspace.capsys.readouterr().err == (
        "predict: error: models/onnx/classifier-fp16.onnx: Permission denied\n"
    )
    assert workspace.files() == before


def test_a_killed_run_leaves_nothing_that_counts_and_the_next_one_tidies_up(workspace: Workspace) -> None:
    hanging(workspace.folder / "models/onnx/classifier-a.onnx")  # the first by its name
    predictions = workspace.folder / "data/predictions"
    _, script, *paths = command("predict@onnx")
    with subprocess.Popen(
        [sys.executable, ROOT / script, *paths], cwd=workspace.folder, env=clean_environment()
    ) as stage:
        deadline = time.monotonic() + 60
        while not list(predictions.rglob(".*/**/*.npy")) and time.monotonic() < deadline:
            time.sleep(0.05)
        stage.kill()
    left = {path.relative_to(predictions).parts[0] for path in predictions.rglob("*")} - EXECUTORS_AND_FORMATS
    assert left == {".onnx.unfinished"}
    assert ".*.unfinished/" in (ROOT / ".dvcignore").read_text().splitlines()
    (workspace.folder / "models/onnx/classifier-a.onnx").unlink()
    workspace.call("predict@onnx")
    assert not list(predictions.rglob(".*"))


def elsewhere(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """What `verify` finds of the ONNX files where other executors ran them: by variant, then by executor."""
    workspace.call("verify")
    verified = json.loads((workspace.folder / "metrics" / "verify.json").read_text())
    return {variant: figures["executors"] for variant, figures in verified["onnx"].items() if "executors" in figures}


@in_webassembly
def test_webassembly_computes_what_was_proved_on_every_row(workspace: Workspace) -> None:
    found = elsewhere(workspace)
    assert sorted(found) == ["fp16", "fp32", "int8"]
    for figures in found.values():
        web = figures["web"]
        assert (web["passed"], web["problems"], web["rows"]) == (True, [], 400)
        assert (
            web["executor_version"]
            == json.loads(LOCK.read_text())["packages"]["node_modules/onnxruntime-web"]["version"]
        )
        assert 0 < web["largest_error"] < 1e-2


@in_webassembly
def test_what_webassembly_cannot_run_is_not_right_there_and_fit_here(workspace: Workspace) -> None:
    """An operator set that this ONNX Runtime knows, and the one for browsers does not."""
    path = workspace.folder / "models/onnx/classifier-fp16.onnx"
    model = onnx.load(path)
    model.opset_import[0].version = NEWEST_OPSET
    onnx.save(model, path)
    workspace.call("predict@onnx")
    workspace.call("predict@web")
    found = elsewhere(workspace)
    assert rejections(workspace, "onnx") == {}
    [problem] = found["fp16"]["web"]["problems"]
    assert problem.startswith(f"executed: {path.relative_to(workspace.folder)}: Can't create a session.")
    assert not found["fp16"]["web"]["passed"]
    assert found["fp32"]["web"]["passed"]


@in_webassembly
def test_what_hangs_in_webassembly_ends_with_its_own_process(workspace: Workspace) -> None:
    hanging(workspace.folder / "models/onnx/classifier-a.onnx")
    workspace.set("predict.timeout_seconds", 10)
    workspace.call("predict@web")
    record = json.loads((workspace.folder / "data/predictions/web/a.json").read_text())
    assert "hangs: no batch was done within 10 seconds" in record["failure"]
    deadline = time.monotonic() + 20
    while (running := nodes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running == []
    assert elsewhere(workspace)["fp32"]["web"]["passed"]


def nodes() -> list[str]:
    """The processes of node that run a file of this test's folder."""
    listed = subprocess.run(["ps", "-A", "-o", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if "web_executor.mjs" in line and "classifier-a.onnx" in line]


def test_without_node_the_reason_stands_in_place_of_earlier_results(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(workspace.folder))
    said = workspace.call("predict@web")
    again = "then `dvc repro --force --single-item predict@web` and `dvc repro`"
    reason = f"node was not found: install Node.js 20 or newer, `make web`, {again}"
    assert f"predict: web leaves out classifier-int8.onnx: {reason}\n" in said
    folder = workspace.folder / "data/predictions/web"
    assert sorted(file.name for file in folder.iterdir()) == ["fp16.json", "fp32.json", "int8.json"]
    assert [figures["web"] for figures in elsewhere(workspace).values()] == [{"left_out": reason}] * 3
    workspace.call("report")
    assert "Nothing was run as browsers do: node was not found" in (workspace.folder / "metrics/report.md").read_text()
    assert reason in (workspace.folder / "metrics/report.html").read_text()


def test_the_standard_s_own_evaluator_agrees_on_some_rows_or_says_what_it_does_not_know(workspace: Workspace) -> None:
    found = {variant: figures["onnx_reference"] for variant, figures in elsewhere(workspace).items()}
    assert found.pop("int8") == {"left_out": "DynamicQuantizeLSTM is no operation of the ONNX standard"}
    for figures in found.values():
        assert (figures["passed"], figures["rows"]) == (True, 400)
    assert found["fp32"]["worst_class_error"] < 1e-5 < found["fp16"]["worst_class_error"]


def test_what_the_evaluator_reads_past_is_left_out_and_not_held_against_the_file() -> None:
    def lstm(lengths: str = "", **attributes: Any) -> str | None:
        return what_is_read_past(make_node("LSTM", ["x", "w", "r", "", lengths], ["y"], **attributes))

    assert lstm() is None
    assert lstm(input_forget=0, activations=["Sigmoid", "Tanh", "Tanh"] * 2) is None
    assert lstm("lengths") == "sequence_lens"
    assert lstm(input_forget=1) == "input_forget"
    assert lstm(clip=3.0) == "clip"
    assert lstm(activations=["Relu", "Tanh", "Tanh"]) == "activations"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda logits: logits * np.float32(1.001), "graph: relative error 0.00"),
        (lambda logits: np.where(np.arange(len(logits))[:, None] == 7, np.nan, logits), "graph: the logits of row 7"),
        (lambda logits: np.roll(logits, 1, axis=1), "decisions: "),
        (lambda logits: logits[:, :2], "shapes: the logits have shape [400, 2]; expected [400, 3]"),
    ],
)
def test_an_executor_that_computes_something_else_is_told(workspace: Workspace, change: Any, problem: str) -> None:
    """In place of WebAssembly's: logits that no runtime here gives."""
    predictions = workspace.folder / "data/predictions"
    for suffix in (".npy", ".json"):
        shutil.copyfile(predictions / f"onnx/fp32{suffix}", predictions / f"web/fp32{suffix}")
    logits = np.load(predictions / "web/fp32.npy")
    np.save(predictions / "web/fp32.npy", np.ascontiguousarray(change(logits), np.float32))
    found = elsewhere(workspace)["fp32"]["web"]
    assert not found["passed"]
    assert any(each.startswith(problem) for each in found["problems"]), found["problems"]

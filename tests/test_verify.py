"""What verify lets pass, and what it catches."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import export_coreml
import predict
import shared.data.chunks
import verify
from shared.conversion.export import ExportParams
from shared.data.sequences import Prepared
from shared.execution.predictions import Prediction, find_reference, read_predictions
from shared.files.formats import SUFFIXES
from shared.files.quiet import import_coremltools
from shared.judging.inside import FormatJudge
from shared.judging.limits import VerifyParams
from shared.judging.parity import Comparison, compare, measure
from shared.kit.params import read_params
from shared.kit.stage import StageError
from shared.network.model import Checkpoint, SequenceClassifier, load_checkpoint
from tests.support import Workspace, rejections
from verify import Bench

import numpy as np
import onnx
import pandas as pd
import pytest
import torch

Predictions = dict[str, Prediction]
NO_SOURCE = "weights: the float32 file that it is judged by was not executed"
DYNAMIC = ", where a name is a dynamic axis"
ONNX = "models/onnx/classifier-fp32.onnx"


@pytest.fixture
def predictions(small_run: Path) -> Predictions:
    """Of the small run, by format and precision."""
    return {f"{found.format}-{found.precision}": found for found in read_predictions(small_run / "data/predictions")}


@pytest.fixture
def bench(small_run: Path, predictions: Predictions, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """What the small run's files are judged by."""
    monkeypatch.chdir(small_run)
    return verify.set_up(
        Prepared(small_run / "data/prepared"),
        small_run / "models/pytorch/classifier.pt",
        list(predictions.values()),
        json.loads((small_run / "metrics/evaluate.json").read_text()),
        read_params("export", ExportParams),
        read_params("verify", VerifyParams),
    )


def verdict(found: Prediction, bench: Bench, path: Path | None = None) -> dict[str, Any]:
    """Of one file of the small run, in whose folder we are, or of another."""
    models = Path("models", found.format)
    suffix = SUFFIXES[found.format]
    judge = FormatJudge(models / f"classifier-fp32{suffix}", bench.net, bench.scale)
    figures, _ = verify.verify(found, path or models / f"classifier-{found.precision}{suffix}", judge, bench)
    return figures


def problems(found: Prediction, bench: Bench, path: Path | None = None) -> list[str]:
    listed: list[str] = verdict(found, bench, path)["problems"]
    return listed


def compare_with(reference: Any, logits: Any) -> Comparison:
    ours, theirs = np.asarray(logits, np.float32), np.asarray(reference, np.float32)
    return compare(ours, theirs, measure(theirs))


# --- values ---


def swap_bias_gates(model: SequenceClassifier) -> None:
    """Give the cell gate's bias to the output gate and the other way round, as a converter might."""
    with torch.no_grad():
        for name, parameter in model.get_submodule("network.rnn").named_parameters():
            if name.startswith("bias"):
                i, f, g, o = parameter.chunk(4)
                parameter.copy_(torch.cat([i, f, o, g]))


@pytest.mark.parametrize("swapped", [False, True])
def test_a_swapped_bias_gate_is_caught_even_in_half_precision(
    workspace: Workspace,
    predictions: Predictions,
    bench: Bench,
    swapped: bool,
) -> None:
    checkpoint = load_checkpoint(workspace.folder / "models/pytorch/classifier.pt")
    if swapped:
        swap_bias_gates(checkpoint.model)
    workspace.patch.chdir(workspace.folder)
    params = read_params("export_coreml", export_coreml.Params)
    package = workspace.folder / "fp16.mlpackage"
    export_coreml.save(export_coreml.export_coreml(checkpoint, bench.names, params, "fp16"), package)
    data, file = Prepared(workspace.folder / "data/prepared"), workspace.folder / "fp16.npy"
    record = predict.execute(package, data, read_params("predict", predict.Params), file)
    found = problems(Prediction("coreml", "fp16", np.load(file), record), bench, package)
    assert bool(found) == swapped
    assert all(problem.startswith("weights: lstm_0.bias, as float16: ") for problem in found)


def test_an_error_is_measured_as_documented() -> None:
    reference = np.array([[1, 0], [0, 2], [3, 0], [0, 0.01]], np.float32)
    logits = reference + np.array([[0.1, 0], [0, -0.1], [0, 0], [0.1, 0]], np.float32)
    figures = compare_with(reference, logits).figures
    rms = np.sqrt(3 * 0.01 / 8)
    assert figures["max_absolute_error"] == pytest.approx(0.1, rel=1e-2)
    assert figures["mean_absolute_error"] == pytest.approx(0.3 / 8, rel=1e-2)
    assert figures["relative_error"] == pytest.approx(rms / reference.std(), rel=1e-2)
    assert figures["psnr_db"] == pytest.approx(20 * np.log10(3 / rms), rel=1e-2)
    assert figures["argmax_agreement"] == 0.75
    assert figures["flips"] == 1
    assert figures["largest_flipped_margin"] == pytest.approx(0.01, rel=1e-2)
    assert figures["flips_within_margin"] is True


def test_a_flip_of_a_clear_decision_is_beyond_its_margin() -> None:
    reference = np.array([[1, 0], [0, 2], [3, 0]], np.float32)
    logits = np.array([[0, 1], [0, 2], [3, 0]], np.float32)
    figures = compare_with(reference, logits).figures
    assert (figures["flips"], figures["flips_within_margin"]) == (1, False)


def test_logits_that_never_vary_are_no_reference() -> None:
    with pytest.raises(StageError, match="all equal"):
        measure(np.ones((4, 3), np.float32))


def test_equal_logits_have_no_error_and_no_flips() -> None:
    reference = np.array([[1, 0], [0, 2]], np.float32)
    figures = compare_with(reference, reference).figures
    assert (figures["relative_error"], figures["psnr_db"], figures["flips"]) == (0, None, 0)


def test_logits_that_are_not_finite_are_caught(predictions: Predictions, bench: Bench) -> None:
    logits = np.array(predictions["onnx-fp32"].logits)
    logits[0, 0] = np.inf
    damaged = replace(predictions["onnx-fp32"], logits=logits)
    assert problems(damaged, bench) == ["graph: the logits of row 0 are not finite"]


# --- shapes and names ---


def changed(prediction: Prediction, part: str, **values: Any) -> Prediction:
    return replace(prediction, record=prediction.record | {part: prediction.record[part] | values})


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"input_name": "x"}, "input_name 'x'; expected 'sequence'"),
        ({"output_name": "y"}, "output_name 'y'; expected 'logits'"),
        ({"lengths_name": "steps"}, "lengths_name 'steps'; expected None"),
        ({"dtypes": ["float32", "float16"]}, "dtypes ['float32', 'float16']; expected ['float32', 'float32']"),
        ({"features": ["y"]}, "features ['y']; expected ['x']"),
        ({"classes": ["0", "2", "1"]}, "classes ['0', '2', '1']; expected ['0', '1', '2']"),
        ({"input_axes": ["n", 7, 1]}, f"input_axes ['n', 7, 1]; expected ['batch', 6, 1]{DYNAMIC}"),
        ({"input_axes": [3, 6, 1]}, f"input_axes [3, 6, 1]; expected ['batch', 6, 1]{DYNAMIC}"),
        ({"input_axes": []}, f"input_axes []; expected ['batch', 6, 1]{DYNAMIC}"),
        ({"output_axes": [1, 3]}, f"output_axes [1, 3]; expected ['batch', 3]{DYNAMIC}"),
    ],
)
def test_another_interface_is_caught(
    predictions: Predictions,
    bench: Bench,
    values: dict[str, Any],
    problem: str,
) -> None:
    assert problems(predictions["onnx-fp32"], bench) == []
    found = problems(changed(predictions["onnx-fp32"], "interface", **values), bench)
    assert found == [f"interface: {problem}"]


@pytest.mark.parametrize(
    ("probe", "problem"),
    [
        (
            {"shape": [7, 3], "max_absolute_difference": 0.5},
            "the logits differ by 0.5 from the whole split's",
        ),
        (
            {"shape": [3, 3], "max_absolute_difference": None},
            "the logits have shape [3, 3]; expected [7, 3]",
        ),
    ],
)
def test_a_batch_size_that_changes_the_logits_is_caught(
    predictions: Predictions,
    bench: Bench,
    probe: dict[str, Any],
    problem: str,
) -> None:
    assert problems(changed(predictions["onnx-fp32"], "batches", **{"7": probe}), bench) == [
        f"shapes: at batch 7 {problem}"
    ]


def test_a_batch_size_baked_into_an_onnx_file_is_caught(workspace: Workspace) -> None:
    path = workspace.folder / ONNX
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, path)
    assert rejections(workspace, "onnx")["fp32"].startswith(f"executed: {ONNX}: onnxruntime failed: ")


def test_a_batch_size_that_would_be_baked_into_a_mlpackage_is_refused_at_export(workspace: Workspace) -> None:
    """The mistake that the architecture avoids: an initial state of the traced batch's size."""

    class Baked(SequenceClassifier):
        def forward(self, sequence: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
            zeros = torch.zeros(1, int(sequence.size(0)), 50)
            _, (h_n, _) = self.get_submodule("network.rnn")(sequence, (zeros, zeros))
            logits: torch.Tensor = self.get_submodule("network.linear")(h_n[-1])
            return logits

    import_coremltools()
    good = load_checkpoint(workspace.folder / "models/pytorch/classifier.pt")
    baked = Baked(good.model.config)
    baked.load_state_dict(good.model.state_dict())
    workspace.patch.chdir(workspace.folder)
    with pytest.raises(StageError, match="Core ML cannot carry a branch on values or a size"):
        export_coreml.export_coreml(
            Checkpoint(baked.eval(), good.training),
            read_params("export", ExportParams),
            read_params("export_coreml", export_coreml.Params),
            "fp32",
        )


# --- what a mean over all logits hides ---


def judge(logits: Any, predictions: Predictions, bench: Bench, **record: Any) -> list[str]:
    """What is wrong with an fp32 file that computes these logits."""
    found = predictions["onnx-fp32"]
    return problems(replace(found, logits=logits, record=found.record | record), bench)


@pytest.fixture
def long(predictions: Predictions) -> Predictions:
    """As many rows as hide an error in one of them; PyTorch's logits and a file's, which agree."""
    logits = np.tile(predictions["pytorch-fp32"].logits, (50, 1))
    return {name: replace(found, logits=logits) for name, found in predictions.items()}


@pytest.fixture
def long_bench(long: Predictions, bench: Bench) -> Bench:
    """What they are judged by."""
    reference = long["pytorch-fp32"]
    return replace(bench, reference=reference, scale=measure(reference.logits))


def test_an_error_of_one_class_alone_is_caught(long: Predictions, long_bench: Bench) -> None:
    """As of a bias that was dropped: spread over three classes it would be within the bound."""
    logits = np.array(long["pytorch-fp32"].logits)
    logits[:, 1] += np.float32(1.6e-5) * logits.std()
    assert compare_with(long["pytorch-fp32"].logits, logits).figures["relative_error"] < 1e-5
    [problem] = judge(logits, long, long_bench)
    assert problem.startswith("graph: relative error 1.6e-05 from what PyTorch gives is above 1.0")


def test_an_error_in_one_row_alone_is_caught(long: Predictions, long_bench: Bench) -> None:
    logits = np.array(long["pytorch-fp32"].logits)
    logits[17, 2] += np.float32(5e-4) * logits.std()
    assert compare_with(long["pytorch-fp32"].logits, logits).figures["worst_class_error"] < 1e-5
    [problem] = judge(logits, long, long_bench)
    assert problem.startswith("graph: relative error of one logit 0.0005 from what PyTorch gives is above 0.0002")


def test_an_error_outside_the_data_alone_is_caught(predictions: Predictions, bench: Bench) -> None:
    reference = predictions["pytorch-fp32"]
    answers = reference.record["probes"]
    shifted = answers["far"] | {"logits": (np.array(answers["far"]["logits"]) + 0.01).tolist()}
    [problem] = judge(reference.logits, predictions, bench, probes=answers | {"far": shifted})
    assert problem.startswith("probes: relative error of a logit in 'far' 0.")


def test_rounding_is_let_pass(long: Predictions, long_bench: Bench) -> None:
    noise = np.random.default_rng(0).normal(size=long["pytorch-fp32"].logits.shape)
    logits = np.float32(long["pytorch-fp32"].logits * (1 + 3e-7 * noise))
    assert judge(logits, long, long_bench) == []


# --- what it costs on the task ---


def evaluated(accuracy: float, recall: dict[str, float | None]) -> dict[str, Any]:
    figures = {"accuracy": accuracy, "recall": recall | {"no rows": None}}
    return {"fp32": figures | {"accuracy_loss": round(0.9 - accuracy, 6), "accuracy_loss_interval": [-0.01, 0.02]}}


@pytest.mark.parametrize(
    ("allowed", "accuracy", "recall", "words"),
    [
        (0.01, 0.91, {"a": 1.0, "b": 0.95}, []),
        (0.01, 0.89, {"a": 0.9, "b": 0.9}, []),
        (0.01, 0.889, {"a": 0.9, "b": 0.9}, ["accuracy_loss: 0.011 of the rows are lost"]),
        ({"onnx": 0.02}, 0.889, {"a": 0.9, "b": 0.9}, []),
        ({"coreml": 0.001}, 0.5, {"a": 0.9, "b": 0.9}, []),
        (0.01, 0.9, {"a": 1.0, "b": 0.8}, ["recall_loss: 0.1 of the rows of class b are lost"]),
    ],
)
def test_what_a_right_file_costs_on_the_task_makes_it_too_lossy(
    predictions: Predictions,
    bench: Bench,
    allowed: Any,
    accuracy: float,
    recall: dict[str, float | None],
    words: list[str],
) -> None:
    bench = replace(
        bench,
        params=bench.params.model_copy(update={"accuracy_loss": allowed, "recall_loss": 0.05}),
        evaluation={"pytorch": evaluated(0.9, {"a": 0.9, "b": 0.9}), "onnx": evaluated(accuracy, recall)},
    )
    figures = verdict(predictions["onnx-fp32"], bench)
    assert figures["accuracy_loss_interval"] == [-0.01, 0.02]
    assert figures["problems"] == []
    assert figures["passed"] is True
    assert figures["outcome"] == ("too_lossy" if words else "fit")
    assert [loss.partition(" against")[0] for loss in figures["losses"]] == words


def test_a_file_that_was_not_evaluated_is_wrong(workspace: Workspace) -> None:
    evaluated_file = workspace.folder / "metrics/evaluate.json"
    evaluated = json.loads(evaluated_file.read_text())
    del evaluated["onnx"]["fp32"]
    evaluated_file.write_text(json.dumps(evaluated))
    assert verdicts(workspace)["onnx"]["fp32"]["problems"] == ["executed: it has no figures on the task"]


# --- the tables ---


def test_the_histogram_counts_every_error_once() -> None:
    reference = np.array([[0, 1], [2, 3], [4, 5]])
    errors = compare_with(reference, reference + np.array([[0, 1e-3], [0.5, 0], [5000, 0]])).errors
    rows = verify.parity_table({("onnx", "fp32"): Comparison({}, errors, [])})
    table = pd.DataFrame(rows, columns=verify.PARITY_COLUMNS)
    assert (table["low"].iloc[0], table["high"].iloc[0], table["high"].iloc[-1]) == (0, 1e-9, 1e3)
    assert (table["low"].iloc[1:].to_numpy() == table["high"].iloc[:-1].to_numpy()).all()
    filled = table[table["logits"] > 0]
    assert filled[["low", "logits"]].to_numpy().tolist() == [[0, 3], [1e-3, 1], [0.464, 1], [464, 1]]


def test_the_clearest_flips_are_listed_by_name() -> None:
    reference = np.array([[i / 10 + 0.1, 0] for i in range(20)] + [[0, 5]])
    logits = reference[:, ::-1] * [[1, 1]] * 20 + [[1, 0]]
    logits[:20] = [[0, 1]] * 20
    flips = compare_with(reference, logits).flips
    rows = verify.flips_table(
        {("onnx", "fp32"): Comparison({}, np.zeros(0, int), flips)}, np.arange(21) % 2, ["a", "b"]
    )
    assert [row for _, _, row, *_ in rows] == [20, *range(19, 10, -1)]
    assert dict(zip(verify.FLIPS_COLUMNS, rows[0], strict=True)) == {
        "format": "onnx", "variant": "fp32", "row": 20, "actual": "a", "pytorch": "b", "predicted": "a", "margin": 5.0
    }  # fmt: skip


def test_the_size_of_a_chunk_makes_no_difference(long: Predictions, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, logits = long["pytorch-fp32"].logits, long["onnx-fp32"].logits + np.float32(0.01)
    whole = compare_with(reference, logits)
    monkeypatch.setattr(shared.data.chunks, "CHUNK_BYTES", 1000)
    pieces = compare_with(reference, logits)
    assert pieces.figures == whole.figures
    assert pieces.flips == whole.flips
    np.testing.assert_array_equal(pieces.errors, whole.errors)


# --- the list of files ---


def verdicts(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """What `verify` finds in the workspace as it is; it does not fail, whatever that is."""
    workspace.call("verify")
    found: dict[str, dict[str, Any]] = json.loads((workspace.folder / "metrics" / "verify.json").read_text())
    return found


def test_a_file_that_was_not_executed_is_wrong(workspace: Workspace) -> None:
    for suffix in ("npy", "json"):
        (workspace.folder / f"data/predictions/coreml/fp16.{suffix}").unlink()
    assert verdicts(workspace)["coreml"]["fp16"] == {
        "outcome": "wrong",
        "passed": False,
        "problems": ["executed: no prediction was found"],
        "losses": [],
    }


def test_a_file_that_is_gone_is_wrong(workspace: Workspace) -> None:
    (workspace.folder / "models/onnx/classifier-int8.onnx").unlink()
    assert verdicts(workspace)["onnx"]["int8"]["problems"] == ["executed: there are logits of it, but no such file"]


def test_without_the_float32_file_no_other_is_right(workspace: Workspace) -> None:
    (workspace.folder / ONNX).unlink()
    found = verdicts(workspace)
    assert {variant: figures["problems"] for variant, figures in found["onnx"].items()} == {
        "fp32": ["executed: there are logits of it, but no such file"],
        "fp16": [NO_SOURCE],
        "int8": [NO_SOURCE],
    }
    assert all(figures["passed"] for figures in found["coreml"].values())


def test_the_source_net_has_a_verdict_of_its_own(workspace: Workspace) -> None:
    assert verdicts(workspace)["pytorch"] == {
        "fp32": {"outcome": "fit", "passed": True, "problems": [], "losses": [], "notes": []}
    }


def test_it_says_what_each_file_s_weights_and_graph_are(workspace: Workspace) -> None:
    written = json.loads((workspace.folder / "metrics" / "verify.json").read_text())
    for name, tensors, stored in (("fp32", 5, 5), ("fp16", 5, 5), ("palette6", 5, 1)):
        figures = written["coreml"][name]
        assert figures["weights"] == {"tensors": tensors, "stored_as_named": stored}
        assert 0 < figures["graph_error"] < figures["graph_bound"] / 2
    assert written["onnx"]["int8"]["computes_in"] == "8-bit activations"


def test_it_says_who_executed_each_file(workspace: Workspace) -> None:
    written = json.loads((workspace.folder / "metrics" / "verify.json").read_text())
    assert written["onnx"]["fp32"]["executor"] == "onnxruntime"
    assert written["coreml"]["fp16"]["executor"] in {"coreml", "reference"}
    assert all(written[name][variant]["platform"] for name in ("onnx", "coreml") for variant in written[name])


def test_without_the_reference_nothing_is_verified(predictions: Predictions) -> None:
    with pytest.raises(StageError, match="PyTorch's logits are missing"):
        find_reference([predictions["onnx-fp32"]])

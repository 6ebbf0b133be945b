"""Figures of the task, against values computed by hand."""

import json
import math
from typing import Any

import evaluate
from shared.execution.predictions import Prediction
from shared.kit.stage import StageError
from tests.support import Workspace

import numpy as np
import pandas as pd
import pytest

# Actual classes 0 0 0 1; predicted 0 0 1 1; the third class is never seen.
LABELS = np.array([0, 0, 0, 1])
LOGITS = np.log([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.5, 0.25]])
CLASSES = ["a", "b", "c"]


def prediction(logits: Any, file_format: str = "pytorch") -> Prediction:
    return Prediction(file_format, "fp32", np.asarray(logits, np.float32), {})


def test_figures_are_as_computed_by_hand() -> None:
    figures = evaluate.figures_of(evaluate.score(prediction(LOGITS), LABELS, len(CLASSES)), CLASSES)
    assert figures["accuracy"] == 0.75
    assert figures["recall"] == {"a": pytest.approx(2 / 3, rel=1e-5), "b": 1.0, "c": None}
    assert figures["macro_f1"] == pytest.approx((0.8 + 2 / 3 + 0) / 3, rel=1e-5)
    assert figures["loss"] == pytest.approx((3 * math.log(2) + math.log(4)) / 4, rel=1e-5)
    assert figures["accuracy_interval"] == [pytest.approx(0.300642, abs=1e-6), pytest.approx(0.954413, abs=1e-6)]


def logits_for(predicted: Any) -> Any:
    return np.eye(3)[predicted]


def test_a_loss_is_of_the_same_rows_as_pytorch_s() -> None:
    """Two rows are lost and one is gained; the accuracies alone would show a loss of one row in four."""
    theirs, ours = prediction(logits_for([0, 0, 1, 1])), prediction(logits_for([1, 2, 0, 1]))
    figures = evaluate.loss_of(evaluate.score(ours, LABELS, len(CLASSES), theirs))
    low, high = figures.pop("accuracy_loss_interval")
    assert figures == {"accuracy_loss": 0.25, "lost_rows": 2, "gained_rows": 1}
    assert low < 0 < 0.25 < high


def test_a_loss_is_summed_over_chunks() -> None:
    random = np.random.default_rng(0)
    labels, theirs, ours = (random.integers(0, 3, 100_000) for _ in range(3))
    found = evaluate.score(prediction(logits_for(ours)), labels, 3, prediction(logits_for(theirs)))
    assert found.lost == ((theirs == labels) & (ours != labels)).sum()
    assert found.gained == ((theirs != labels) & (ours == labels)).sum()


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([0, 0, 1, 1], {"majority_class": "a", "majority_accuracy": 0.75, "collapsed": False}),
        ([0, 0, 0, 0], {"majority_class": "a", "majority_accuracy": 0.75, "collapsed": True}),
        ([2, 2, 2, 2], {"majority_class": "a", "majority_accuracy": 0.75, "collapsed": True}),
    ],
)
def test_a_net_that_names_one_class_alone_has_collapsed(predicted: list[int], expected: dict[str, Any]) -> None:
    found = evaluate.score(prediction(logits_for(predicted)), LABELS, len(CLASSES))
    assert evaluate.baseline(found.counts, CLASSES) == expected


def test_a_split_of_one_class_does_not_tell_a_collapsed_net() -> None:
    found = evaluate.score(prediction(logits_for([0, 0])), np.zeros(2, np.int64), len(CLASSES))
    assert not evaluate.baseline(found.counts, CLASSES)["collapsed"]


def test_the_confusion_table_holds_every_pair_once() -> None:
    counts = evaluate.score(prediction(LOGITS), LABELS, len(CLASSES)).counts
    assert evaluate.confusion_table(counts, CLASSES) == [
        (actual, predicted, {("a", "a"): 2, ("a", "b"): 1, ("b", "b"): 1}.get((actual, predicted), 0))
        for actual in CLASSES
        for predicted in CLASSES
    ]


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (LOGITS[:3], r"pytorch fp32: logits of shape \(3, 3\); expected \(4, 3\)"),
        (LOGITS[:, :2], r"pytorch fp32: logits of shape \(4, 2\); expected \(4, 3\)"),
        (np.where(LOGITS < -1, np.nan, LOGITS), "pytorch fp32: some logits are not finite"),
    ],
)
def test_logits_that_cannot_be_judged_are_refused(logits: Any, message: str) -> None:
    with pytest.raises(StageError, match=message):
        evaluate.score(prediction(logits), LABELS, len(CLASSES))


def test_every_file_is_judged_and_the_confusion_table_is_pytorch_s(workspace: Workspace) -> None:
    figures = json.loads((workspace.folder / "metrics" / "evaluate.json").read_text())
    predicted = {
        name: sorted(file.stem for file in (workspace.folder / "data/predictions" / name).glob("*.npy"))
        for name in ("pytorch", "onnx", "coreml")
    }
    assert {name: list(precisions) for name, precisions in figures.items()} == predicted
    table = pd.read_csv(workspace.folder / "metrics" / "confusion.csv")
    right = table[table["actual"] == table["predicted"]]["rows"].sum()
    assert table["rows"].sum() == 400
    assert right / 400 == pytest.approx(figures["pytorch"]["fp32"]["accuracy"])


def test_a_file_that_cannot_be_judged_has_no_figures_and_hides_no_other(workspace: Workspace) -> None:
    figures = workspace.folder / "metrics" / "evaluate.json"
    before = json.loads(figures.read_text())
    folder = workspace.folder / "data" / "predictions"
    np.save(folder / "onnx/fp32.npy", np.full((400, 3), np.nan, np.float32))
    np.save(folder / "onnx/fp16.npy", np.zeros((400, 2), np.float32))
    (folder / "coreml/fp32.json").write_text(json.dumps({"failure": "it cannot be opened"}))
    workspace.call("evaluate")
    del before["onnx"]["fp32"], before["onnx"]["fp16"], before["coreml"]["fp32"]
    assert json.loads(figures.read_text()) == before

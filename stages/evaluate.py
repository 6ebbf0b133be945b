"""Measure what each file is worth on the task: all logits and the test labels in; metrics and a confusion table out.

Beside PyTorch's figures stands what it has to be better than: always naming the commonest class. Beside every other
file's stands what it loses against PyTorch on the same rows; each with the interval that so many rows leave open.

A file that was not executed, or whose logits are no logits of this task, gets no figures: `verify` says what is wrong.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from shared.data.chunks import chunks
from shared.data.sequences import Prepared
from shared.execution.predictions import Prediction, find_reference, nest, read_predictions
from shared.judging.uncertainty import loss_interval, share_interval
from shared.kit.stage import StageError, parse_args, rounded, run, write_metrics, write_table

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

Table = list[tuple[str, str, int]]
"""Rows of actual class, predicted class and how many."""


@dataclass(frozen=True)
class Score:
    """What one pass over a file's logits gives.

    Attributes:
        counts: The confusion matrix (actual, predicted) in rows.
        loss: The mean cross-entropy in nats.
        lost: Rows that the reference has right, and the file has not; 0 if there is none to compare with.
        gained: The other way round.
    """

    counts: NDArray[np.int64]
    loss: float
    lost: int = 0
    gained: int = 0


def score(
    prediction: Prediction, labels: NDArray[np.int64], classes: int, reference: Prediction | None = None
) -> Score:
    """Compare a file's logits with the labels, and its right answers with the reference's.

    Raises:
        StageError: The file was not executed, or its logits are not of one row a label and one column a class, or not
            finite.
    """
    name = f"{prediction.format} {prediction.precision}"
    if prediction.failure:
        raise StageError(f"{name}: {prediction.failure}")
    if prediction.logits.shape != (len(labels), classes):
        raise StageError(
            f"{name}: logits of shape {prediction.logits.shape}; "
            f"expected {(len(labels), classes)}: a row for each of the test split, a column for each class"
        )
    counts = np.zeros((classes, classes), np.int64)
    loss, lost, gained = 0.0, 0, 0
    expected = prediction.logits if reference is None else reference.logits
    for actual, logits, theirs in chunks(labels, prediction.logits, expected):
        if not np.isfinite(logits).all():
            raise StageError(f"{name}: some logits are not finite")
        predicted = logits.argmax(axis=1)
        counts += confusion_matrix(actual, predicted, labels=range(classes))
        right, theirs_right = predicted == actual, theirs.argmax(axis=1) == actual
        lost += int((theirs_right & ~right).sum())
        gained += int((right & ~theirs_right).sum())
        loss -= log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(actual)), actual].sum()
    return Score(counts, loss / len(labels), lost, gained)


def figures_of(found: Score, classes: list[str]) -> dict[str, Any]:
    """Accuracy, macro F1, mean cross-entropy and the recall of each class; a class without rows has none."""
    counts = found.counts
    indices = np.arange(len(classes))
    actual, predicted = (index.ravel() for index in np.meshgrid(indices, indices, indexing="ij"))
    pairs: dict[str, Any] = {"y_true": actual, "y_pred": predicted, "sample_weight": counts.ravel()}
    recall = [
        None if rows.sum() == 0 else rounded(value)
        for rows, value in zip(counts, recall_score(**pairs, average=None, zero_division=0), strict=True)
    ]
    return {
        "accuracy": rounded(accuracy_score(**pairs)),
        "accuracy_interval": [rounded(end) for end in share_interval(int(counts.trace()), int(counts.sum()))],
        "macro_f1": rounded(f1_score(**pairs, average="macro", zero_division=0)),
        "loss": rounded(found.loss),
        "recall": dict(zip(classes, recall, strict=True)),
    }


def baseline(counts: NDArray[np.int64], classes: list[str]) -> dict[str, Any]:
    """What PyTorch's net has to be better than, and whether it has collapsed: names one class, whatever it is shown."""
    actual, predicted = counts.sum(axis=1), counts.sum(axis=0)
    commonest = int(actual.argmax())
    return {
        "majority_class": classes[commonest],
        "majority_accuracy": rounded(actual[commonest] / actual.sum()),
        "collapsed": bool((predicted > 0).sum() == 1 and (actual > 0).sum() > 1),
    }


def loss_of(found: Score) -> dict[str, Any]:
    """What a file loses against the reference on the same rows; negative where it gains."""
    rows = int(found.counts.sum())
    return {
        "accuracy_loss": rounded((found.lost - found.gained) / rows),
        "accuracy_loss_interval": [rounded(end) for end in loss_interval(found.lost, found.gained, rows)],
        "lost_rows": found.lost,
        "gained_rows": found.gained,
    }


def confusion_table(counts: NDArray[np.int64], classes: list[str]) -> Table:
    """Every pair of an actual and a predicted class, and how many rows it has."""
    return [
        (actual, predicted, int(counts[i, j]))
        for i, actual in enumerate(classes)
        for j, predicted in enumerate(classes)
    ]


def evaluate(
    predictions: list[Prediction], labels: NDArray[np.int64], classes: list[str]
) -> tuple[dict[tuple[str, str], dict[str, Any]], Table]:
    """The figures of every file that has any, and the confusion table of PyTorch's.

    Raises:
        StageError: PyTorch's own logits are missing or cannot be judged.
    """
    reference = find_reference(predictions)
    best = score(reference, labels, len(classes))
    figures = {(reference.format, reference.precision): figures_of(best, classes) | baseline(best.counts, classes)}
    for prediction in predictions:
        if prediction is not reference:
            with suppress(StageError):
                found = score(prediction, labels, len(classes), reference)
                figures[prediction.format, prediction.precision] = figures_of(found, classes) | loss_of(found)
    return figures, confusion_table(best.counts, classes)


def main() -> None:
    """Read the arguments; write the metrics of every file and the confusion table of PyTorch's."""
    args = parse_args(
        __doc__,
        inputs={"prepared": "the folder of prepared arrays", "predictions": "the folder of all logits"},
        outputs={"metrics": "the figures of every file (JSON)", "confusion": "PyTorch's confusion table (CSV)"},
    )
    data = Prepared(args.prepared)
    predictions = list(read_predictions(args.predictions))
    figures, confusion = evaluate(predictions, data.split("test").labels, data.schema.shown_classes)
    write_metrics(args.metrics, nest(figures))
    write_table(args.confusion, ("actual", "predicted", "rows"), confusion)


if __name__ == "__main__":
    run(main)

"""Measure what each file is worth on the task: all logits and the test labels in; metrics and a confusion table out.

A file that was not executed, or whose logits are no logits of this task, gets no figures: `verify` says what is wrong.
"""

from typing import Any

from shared.data.chunks import chunks
from shared.data.sequences import Prepared
from shared.execution.predictions import Prediction, find_reference, nest, read_predictions
from shared.stage import StageError, parse_args, rounded, run, write_bytes, write_json

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score


def score(prediction: Prediction, labels: NDArray[np.int64], classes: int) -> tuple[NDArray[np.int64], float]:
    """The confusion matrix (actual, predicted) in rows, and the mean cross-entropy in nats.

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
    loss = 0.0
    for actual, logits in chunks(labels, prediction.logits):
        if not np.isfinite(logits).all():
            raise StageError(f"{name}: some logits are not finite")
        counts += confusion_matrix(actual, logits.argmax(axis=1), labels=range(classes))
        loss -= log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(actual)), actual].sum()
    return counts, loss / len(labels)


def figures_of(counts: NDArray[np.int64], loss: float, classes: list[str]) -> dict[str, Any]:
    """Accuracy, macro F1, mean cross-entropy and the recall of each class; a class without rows has none."""
    indices = np.arange(len(classes))
    actual, predicted = (index.ravel() for index in np.meshgrid(indices, indices, indexing="ij"))
    pairs: dict[str, Any] = {"y_true": actual, "y_pred": predicted, "sample_weight": counts.ravel()}
    recall = [
        None if rows.sum() == 0 else rounded(value)
        for rows, value in zip(counts, recall_score(**pairs, average=None, zero_division=0), strict=True)
    ]
    return {
        "accuracy": rounded(accuracy_score(**pairs)),
        "macro_f1": rounded(f1_score(**pairs, average="macro", zero_division=0)),
        "loss": rounded(loss),
        "recall": dict(zip(classes, recall, strict=True)),
    }


def confusion_table(counts: NDArray[np.int64], classes: list[str]) -> pd.DataFrame:
    """Rows of actual class, predicted class and how many: every pair once, so that the file stays small."""
    return pd.DataFrame(
        [
            {"actual": actual, "predicted": predicted, "rows": int(counts[i, j])}
            for i, actual in enumerate(classes)
            for j, predicted in enumerate(classes)
        ]
    )


def evaluate(
    predictions: list[Prediction], labels: NDArray[np.int64], classes: list[str]
) -> tuple[dict[tuple[str, str], dict[str, Any]], pd.DataFrame]:
    """The figures of every file that has any, and the confusion table of PyTorch's.

    Raises:
        StageError: PyTorch's own logits are missing or cannot be judged.
    """
    reference = find_reference(predictions)
    counts, loss = score(reference, labels, len(classes))
    figures = {(reference.format, reference.precision): figures_of(counts, loss, classes)}
    for found in predictions:
        if found is not reference:
            try:
                figures[found.format, found.precision] = figures_of(*score(found, labels, len(classes)), classes)
            except StageError:
                continue
    return figures, confusion_table(counts, classes)


def main() -> None:
    """Read the arguments; write the metrics of every file and the confusion table of PyTorch's."""
    args = parse_args(
        __doc__,
        inputs={"prepared": "the folder of prepared arrays", "predictions": "the folder of all logits"},
        outputs={"metrics": "the figures of every file (JSON)", "confusion": "PyTorch's confusion table (CSV)"},
    )
    data = Prepared(args.prepared)
    predictions = list(read_predictions(args.predictions))
    figures, confusion = evaluate(predictions, data.split("test").labels, data.schema.classes)
    write_json(args.metrics, nest(figures))
    write_bytes(args.confusion, confusion.to_csv(index=False).encode())


if __name__ == "__main__":
    run(main)

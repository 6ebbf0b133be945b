"""Measure what each file is worth on the task: all logits and the test labels in; metrics and a confusion table out."""

from typing import Any

from shared.predictions import Prediction, find_reference, nest, read_predictions
from shared.sequences import Prepared
from shared.stage import StageError, parse_args, rounded, run, write_bytes, write_json

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, recall_score


def evaluate(prediction: Prediction, labels: NDArray[np.int64], classes: list[str]) -> dict[str, Any]:
    """Accuracy, macro F1, mean cross-entropy (nats) and the recall of each class; a class without rows has none.

    Raises:
        StageError: The logits are not of one row a label and one column a class, or are not finite.
    """
    if prediction.logits.shape != (len(labels), len(classes)):
        raise StageError(
            f"{prediction.format} {prediction.precision}: logits of shape {prediction.logits.shape}; "
            f"expected {(len(labels), len(classes))}: a row for each of the test split, a column for each class"
        )
    if not np.isfinite(prediction.logits).all():
        raise StageError(f"{prediction.format} {prediction.precision}: some logits are not finite")
    indices = list(range(len(classes)))
    predicted = prediction.logits.argmax(axis=1)
    probabilities = softmax(prediction.logits.astype(np.float64), axis=1)
    recall = recall_score(labels, predicted, labels=indices, average=None, zero_division=np.nan)
    return {
        "accuracy": rounded(accuracy_score(labels, predicted)),
        "macro_f1": rounded(f1_score(labels, predicted, labels=indices, average="macro", zero_division=0)),
        "loss": rounded(log_loss(labels, probabilities, labels=indices)),
        "recall": {
            name: None if np.isnan(value) else rounded(value) for name, value in zip(classes, recall, strict=True)
        },
    }


def confusion_table(prediction: Prediction, labels: NDArray[np.int64], classes: list[str]) -> pd.DataFrame:
    """Rows of actual class, predicted class and how many: every pair once, so that the file stays small."""
    counts = confusion_matrix(labels, prediction.logits.argmax(axis=1), labels=list(range(len(classes))))
    return pd.DataFrame(
        [
            {"actual": actual, "predicted": predicted, "rows": int(counts[i, j])}
            for i, actual in enumerate(classes)
            for j, predicted in enumerate(classes)
        ]
    )


def main() -> None:
    """Read the arguments; write the metrics of every file and the confusion table of PyTorch's."""
    args = parse_args(
        __doc__,
        inputs={"prepared": "the folder of prepared arrays", "predictions": "the folder of all logits"},
        outputs={"metrics": "the figures of every file (JSON)", "confusion": "PyTorch's confusion table (CSV)"},
    )
    data = Prepared(args.prepared)
    classes = data.schema.classes
    labels = data.split("test").labels
    predictions = list(read_predictions(args.predictions))
    figures = {(found.format, found.precision): evaluate(found, labels, classes) for found in predictions}
    confusion = confusion_table(find_reference(predictions), labels, classes)
    write_json(args.metrics, nest(figures))
    write_bytes(args.confusion, confusion.to_csv(index=False).encode())


if __name__ == "__main__":
    run(main)

"""The op that ends a classifier: `classify`."""

from typing import Any

from shared.coreml_reference.errors import EvaluationError
from shared.coreml_reference.registry import kernel

from numpy.typing import NDArray


@kernel("classify")
def classify(probabilities: NDArray[Any], classes: list[Any]) -> tuple[Any, dict[Any, float]]:
    """Return the class with the highest probability (the first of equals) and every class's probability."""
    flat = probabilities.ravel()
    if len(flat) != len(classes):
        raise EvaluationError(f"{len(flat)} probabilities for {len(classes)} classes; a classifier takes one sample")
    labels = [label if isinstance(label, str) else int(label) for label in classes]
    return labels[int(flat.argmax())], dict(zip(labels, map(float, flat), strict=True))

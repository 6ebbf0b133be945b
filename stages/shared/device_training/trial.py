"""What the artifacts are tried on: the prepared data as another sensor would have measured them."""

from dataclasses import dataclass, replace

from shared.data.sequences import Prepared, Split, SplitArrays, chosen_rows, read_rows
from shared.execution.probes import features_of

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

GAIN, OFFSET = 0.7, 0.5
"""Of the other sensor: it measures less variation around the training split's mean, and half a deviation more."""
MOST_ROWS = 4096
"""Of a split, evenly spread: a device has no more to train on."""


def shifted(data: Prepared, split: Split) -> SplitArrays:
    """Rows of a split from a sensor of another gain and offset; features that hold codes stay as they are."""
    arrays, schema = data.split(split), data.schema
    some = read_rows(arrays, chosen_rows(len(arrays.labels), MOST_ROWS))
    codes = np.array([feature.codes is not None for feature in features_of(data)])
    mean, deviation = np.array(schema.mean), np.array(schema.deviation)
    moved = mean + GAIN * (some.sequences - mean) + OFFSET * deviation
    return replace(some, sequences=np.where(codes, some.sequences, moved).astype(np.float32))


def deal(rows: int, batch_size: int, epochs: int, seed: int) -> list[NDArray[np.int_]]:
    """The rows of each batch: in every epoch all of them, in another order."""
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(rows) for _ in range(epochs)]
    return [order[start : start + batch_size] for order in orders for start in range(0, rows, batch_size)]


@dataclass(frozen=True)
class Worth:
    """What a net is worth on some rows: the share that it classifies rightly, and its mean cross-entropy (nats)."""

    accuracy: float
    loss: float


def worth(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Worth:
    """Judge logits (rows, classes) by the labels (rows,)."""
    losses = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return Worth(float((logits.argmax(axis=1) == labels).mean()), float(losses.mean()))

"""From steps to arrays: pad sequences to one length, fill in missing values, measure mean and deviation."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def pad(steps: Floats, lengths: Ints, time_steps: int) -> Floats:
    """Sequences (rows, time, features) of steps (steps, features), with zeros at the end of shorter ones."""
    if (lengths == time_steps).all():
        return steps.reshape(len(lengths), time_steps, steps.shape[1])
    sequences = np.zeros((len(lengths), time_steps, steps.shape[1]), np.float32)
    sequences[np.arange(time_steps) < lengths[:, None]] = steps
    return sequences


def fill_previous(sequences: Floats, lengths: Ints) -> Ints:
    """Fill missing values, in place, with the last one before of the same feature in the same sequence.

    Where none is before, the first one after is taken.

    Returns:
        (sequences, features) indices of features that a sequence has no value of: they are left as they are.
    """
    holes = np.isnan(sequences)
    steps = np.arange(sequences.shape[1])[:, None]
    first = np.where(holes | (steps >= lengths[:, None, None]), sequences.shape[1], steps).min(axis=1, keepdims=True)
    source = np.maximum.accumulate(np.where(holes, 0, steps), axis=1)
    source = np.maximum(source, np.minimum(first, sequences.shape[1] - 1))
    sequences[holes] = np.take_along_axis(sequences, source, axis=1)[holes]
    return np.argwhere(first[:, 0] == sequences.shape[1])


class Moments:
    """Mean and variance of each feature over rows and time, missing values left out, chunk by chunk.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    def __init__(self, features: int) -> None:
        self._count, self.mean, self._squares = np.zeros((3, features))

    def add(self, steps: Floats) -> None:
        """Take in (steps, features)."""
        present = ~np.isnan(steps)
        count = present.sum(axis=0)
        divisor = np.maximum(count, 1)
        mean = steps.sum(axis=0, where=present, dtype=np.float64) / divisor
        squares = np.square(steps - mean, where=present, out=np.zeros(steps.shape)).sum(axis=0)
        total = np.maximum(self._count + count, 1)
        distance = np.where(count > 0, mean - self.mean, 0)
        self.mean = self.mean + distance * count / total
        self._squares = self._squares + squares + distance**2 * self._count * count / total
        self._count = self._count + count

    @property
    def deviation(self) -> NDArray[np.float64]:
        """The standard deviation of each feature."""
        deviation: NDArray[np.float64] = np.sqrt(self._squares / np.maximum(self._count, 1))
        return deviation

    def never(self) -> Ints:
        """The features of which no value was taken in."""
        return np.flatnonzero(self._count == 0)

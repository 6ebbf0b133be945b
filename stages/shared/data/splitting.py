"""Which split each row falls into: drawn at random with exact sizes, in one pass over the rows.

Rows are dealt out in blocks. How many of a block's rows each split gets is drawn from the multivariate hypergeometric
distribution of what is still to be dealt, and a shuffle says which: every way to divide the table with these sizes is
equally likely, and nothing in memory grows with the table.
"""

from shared.kit.stage import StageError

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 65_536  # another number would be another split

Counts = NDArray[np.int64]


def count_rows(size: float, rows: int) -> int:
    """How many rows a size means: an int counts rows, a float is a share of `rows`."""
    return size if isinstance(size, int) else round(size * rows)


def deal(strata: NDArray[np.int64], left: Counts, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the split of each row of a block, without replacement.

    Args:
        strata: (rows,): the stratum of each row.
        left: (strata, splits): how many rows of each stratum each split still gets; the rows drawn are taken off.
        rng: The generator of the whole table.
    """
    drawn = np.empty(len(strata), np.uint8)
    for stratum in np.unique(strata):
        members = strata == stratum
        shares = rng.multivariate_hypergeometric(left[stratum], int(members.sum()), method="marginals")
        left[stratum] -= shares
        drawn[members] = rng.permutation(np.repeat(np.arange(len(shares), dtype=np.uint8), shares))
    return drawn


def proportional(strata_rows: Counts, sizes: Counts) -> Counts:
    """Divide each stratum in the proportions of the whole: (strata, splits), which sum to both arguments.

    Each split in turn gets its share of every stratum's rows, rounded by largest remainder.
    """
    left = strata_rows.copy()
    targets = np.zeros((len(strata_rows), len(sizes)), np.int64)
    for split, size in enumerate(sizes):
        exact = left * (size / left.sum()) if left.sum() else np.zeros(len(left))
        whole = np.floor(exact).astype(np.int64)
        upwards = np.argsort(whole - exact, kind="stable")[: size - whole.sum()]
        whole[upwards] += 1
        targets[:, split] = whole
        left -= whole
    return targets


def deal_groups(group_rows: Counts, sizes: Counts, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the split of each group so that the splits' rows come near `sizes`.

    The groups are taken from the largest to the smallest, equally large ones in random order; each goes to the split
    that lacks most rows. No split that should have rows stays empty.

    Raises:
        StageError: There are fewer groups than splits.
    """
    wanted = np.flatnonzero(sizes)
    groups = np.flatnonzero(group_rows)
    if len(groups) < len(wanted):
        raise StageError(f"{len(groups)} groups are too few for {len(wanted)} splits")
    order = rng.permutation(groups)
    order = order[np.argsort(-group_rows[order], kind="stable")]
    lacking = sizes.copy()
    dealt = np.zeros(len(group_rows), np.uint8)
    empty = set(wanted.tolist())
    for place, group in enumerate(order):
        choices = sorted(empty) if len(order) - place <= len(empty) else wanted
        split = max(choices, key=lambda choice: lacking[choice])
        dealt[group] = split
        lacking[split] -= group_rows[group]
        empty.discard(int(split))
    return dealt

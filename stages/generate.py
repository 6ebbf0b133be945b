"""Make the tutorial's data: a table of sequences and their classes from a seed.

Each row holds six numbers, uniform in [0, 10), and the class int(sum / 20): 0, 1 or 2. A team with data of its own
deletes this stage and puts its table in the same place.
"""

from pathlib import Path

from shared.params import Count, StageParams, read_params
from shared.stage import parse_args, replacing, run

import numpy as np
import pandas as pd
from pydantic import Field
from tqdm import tqdm

TIME_STEPS = 6
CHUNK_ROWS = 100_000  # what is in memory at once


class Params(StageParams):
    """Section `generate`."""

    rows: Count
    seed: int = Field(ge=0)


def generate(rows: int, rng: np.random.Generator) -> pd.DataFrame:
    """Draw `rows` labelled sequences.

    The class is computed from the float32 values as they stand in the table, so that the table itself is exact.
    """
    values = rng.random((rows, TIME_STEPS), dtype=np.float32) * np.float32(10)
    table = pd.DataFrame(values, columns=[f"value_{step}" for step in range(TIME_STEPS)])
    table["label"] = (values.sum(axis=1, dtype=np.float64) / 20).astype(int)
    return table


def write_table(path: Path, params: Params) -> None:
    """Write the CSV table chunk by chunk."""
    rng = np.random.default_rng(params.seed)
    starts = range(0, params.rows, CHUNK_ROWS)
    for start in tqdm(starts, desc="generate", unit="chunk", disable=None):
        chunk = generate(min(CHUNK_ROWS, params.rows - start), rng)
        chunk.to_csv(path, mode="a", header=start == 0, index=False)


def main() -> None:
    """Read the arguments and the parameters; write the table."""
    args = parse_args(__doc__, inputs={}, outputs={"table": "the table to write (CSV)"})
    params = read_params("generate", Params)
    with replacing(args.table) as path:
        write_table(path, params)


if __name__ == "__main__":
    run(main)

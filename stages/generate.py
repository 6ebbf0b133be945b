"""Make the tutorial's data: a table of sequences and their classes from a seed.

Each row holds six numbers, uniform in [0, 10), and the class int(sum / 20): 0, 1 or 2. A team with data of its own
deletes this stage and puts its table in the same place.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.kit.params import Count, Seed, StageParams, read_params
from shared.kit.stage import StageError, parse_args, replacing, run

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from tqdm import tqdm

TIME_STEPS = 6
CHUNK_ROWS = 100_000  # what is in memory at once; in Parquet, a row group
SCHEMA = pa.schema([*((f"x{step}", pa.float32()) for step in range(TIME_STEPS)), ("label", pa.int64())])
WRITERS: dict[str, Callable[[Path], Any]] = {
    ".csv": lambda path: pyarrow.csv.CSVWriter(
        path, SCHEMA, write_options=pyarrow.csv.WriteOptions(quoting_header="none")
    ),
    ".parquet": lambda path: pyarrow.parquet.ParquetWriter(path, SCHEMA),
}


class Params(StageParams):
    """Section `generate`."""

    rows: Count
    seed: Seed


def generate(rows: int, rng: np.random.Generator) -> Any:
    """Draw `rows` labelled sequences, as an Arrow record batch.

    The class is computed from the float32 values as they stand in the table, so that the table itself is exact.
    """
    values = rng.random((rows, TIME_STEPS), dtype=np.float32) * np.float32(10)
    labels = (values.sum(axis=1, dtype=np.float64) / 20).astype(np.int64)
    return pa.record_batch([*values.T, labels], SCHEMA)


def write_table(path: Path, params: Params) -> None:
    """Write the table chunk by chunk: equal parameters give equal bytes."""
    rng = np.random.default_rng(params.seed)
    starts = range(0, params.rows, CHUNK_ROWS)
    with WRITERS[path.suffix](path) as writer:
        for start in tqdm(starts, desc="generate", unit="chunk", disable=None):
            writer.write(generate(min(CHUNK_ROWS, params.rows - start), rng))


def main() -> None:
    """Read the arguments and the parameters; write the table."""
    args = parse_args(__doc__, inputs={}, outputs={"table": "the table to write (.csv or .parquet)"})
    params = read_params("generate", Params)
    if args.table.suffix not in WRITERS:
        raise StageError(f"{args.table}: a table should be {' or '.join(WRITERS)}")
    with replacing(args.table) as path:
        write_table(path, params)


if __name__ == "__main__":
    run(main)

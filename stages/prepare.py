"""Check the table of sequences and split it: a CSV or Parquet table in; memory-mapped arrays and their schema out.

The table has one sequence a row: a label column, and for every feature one column a time step, named
`<feature>_<step>` with steps 0, 1, 2 ... (`value_0` ... `value_5`; or `x_0` ... `x_49`, `y_0` ... `y_49`).
"""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from shared.params import Size, StageParams, read_params
from shared.sequences import SPLITS, PreparedWriter, Split
from shared.stage import StageError, one_line, parse_args, replacing, run

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, field_validator
from sklearn.model_selection import train_test_split
from tqdm import tqdm

CHUNK_ROWS = 50_000  # what is in memory at once


class Params(StageParams):
    """Section `prepare`."""

    label_column: str
    classes: list[str | int] = Field(min_length=2)
    train_size: Size
    validation_size: Size
    stratify: bool
    seed: int = Field(ge=0, lt=2**32)

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: list[str | int]) -> list[str | int]:
        if len({str(name) for name in classes}) < len(classes):
            raise ValueError("every class should be named once")
        return classes


def read_chunks(path: Path, label_column: str) -> Iterator[pd.DataFrame]:
    """Yield the table in pieces of at most `CHUNK_ROWS` rows; labels as strings, the rest as the file has it.

    Raises:
        StageError: The file is neither CSV nor Parquet, is empty, or cannot be parsed (a row too long, an open quote).
    """
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            for batch in pq.ParquetFile(path).iter_batches(batch_size=CHUNK_ROWS):
                chunk = batch.to_pandas()
                if label_column in chunk:
                    chunk[label_column] = chunk[label_column].map(str)
                yield chunk
        elif path.suffix == ".csv":
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # every row longer than the header
                # Not the default's missing values: a class may be called "None" or "NA".
                yield from pd.read_csv(
                    path, chunksize=CHUNK_ROWS, index_col=False, keep_default_na=False, dtype={label_column: str}
                )
        else:
            raise StageError(f"{path}: a table should be .csv or .parquet")
    except pd.errors.EmptyDataError:
        raise StageError(f"{path}: the table is empty") from None
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        raise StageError(f"{path}: not a readable table: {one_line(error)}") from None


def find_features(columns: list[str], label_column: str, path: Path) -> tuple[list[str], int]:
    """The features, in the order of the table, and the number of time steps, from the names of the columns.

    Raises:
        StageError: The label column is missing, a name does not fit, or a feature lacks a time step.
    """
    if label_column not in columns:
        raise StageError(f"{path}: no label column {label_column!r} (prepare.label_column); found {', '.join(columns)}")
    steps: dict[str, set[int]] = {}
    for column in columns:
        match = re.fullmatch(r"(.+)_(0|[1-9]\d*)", column)
        if match:
            steps.setdefault(match[1], set()).add(int(match[2]))
        elif column != label_column:
            raise StageError(
                f"{path}: column {column!r} is neither the label nor named <feature>_<step>, as in value_0"
            )
    if not steps:
        raise StageError(f"{path}: no column is named <feature>_<step>, as in value_0; found {', '.join(columns)}")
    time_steps = max(max(found) for found in steps.values()) + 1
    for feature, found in steps.items():
        if len(found) < time_steps:
            missing = min(set(range(time_steps)) - found)
            raise StageError(
                f"{path}: column {feature}_{missing} is missing; every feature needs steps 0 to {time_steps - 1}"
            )
    return list(steps), time_steps


def check_chunk(
    chunk: pd.DataFrame, value_columns: list[str], label_column: str, classes: list[str], where: str
) -> None:
    """Refuse values that are not finite numbers and labels that are no class.

    Raises:
        StageError: It names the row (the first data row is 1), the column, what was found and what is allowed.
    """
    for column in value_columns:
        values = chunk[column]
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, and is refused below
            numbers = pd.to_numeric(values, errors="coerce").astype(np.float32)
        bad = ~np.isfinite(numbers.to_numpy()) | (values.dtype == bool)
        if bad.any():
            index = int(bad.argmax())
            raise StageError(
                f"{where}, row {chunk.index[index] + 1}, column {column!r}: "
                f"found {show(values.iloc[index])}; expected a finite number"
            )
    bad = ~chunk[label_column].isin(classes).to_numpy()
    if bad.any():
        index = int(bad.argmax())
        raise StageError(
            f"{where}, row {chunk.index[index] + 1}, column {label_column!r}: "
            f"found {show(chunk[label_column].iloc[index])}; prepare.classes allows {', '.join(classes)}"
        )


def show(value: Any) -> str:
    """A table's value, as a message quotes it."""
    if pd.isna(value) or value == "":
        return "no value"
    return repr(value.item() if isinstance(value, np.generic) else value)


def read_table(path: Path, params: Params, values_file: BinaryIO) -> tuple[NDArray[np.int64], list[str], int]:
    """Check every row of the table and append its values to `values_file` as float32, (time, features) a row.

    Returns:
        The labels (rows,) as indices into the classes, the names of the features, and the number of time steps.

    Raises:
        StageError: Anything in the table is wrong.
    """
    classes = [str(name) for name in params.classes]
    labels: list[NDArray[np.int64]] = []
    features: list[str] = []
    time_steps = first_row = 0
    for chunk in tqdm(read_chunks(path, params.label_column), desc="read", unit="chunk", disable=None):
        if not features:
            features, time_steps = find_features([str(name) for name in chunk.columns], params.label_column, path)
        chunk.index = pd.RangeIndex(first_row, first_row + len(chunk))
        first_row += len(chunk)
        columns = [f"{feature}_{step}" for step in range(time_steps) for feature in features]
        check_chunk(chunk, columns, params.label_column, classes, str(path))
        values_file.write(np.ascontiguousarray(chunk[columns].to_numpy(dtype=np.float32)).tobytes())
        labels.append(pd.Categorical(chunk[params.label_column], categories=classes).codes.astype(np.int64))
    if first_row == 0:
        raise StageError(f"{path}: the table has no rows")
    return np.concatenate(labels), features, time_steps


def split_rows(labels: NDArray[np.int64], params: Params, path: Path) -> dict[Split, NDArray[np.int64]]:
    """Draw the rows of each split, without overlap; the rows that are neither train nor validation are test.

    Raises:
        StageError: The table has too few rows for the sizes asked for, or a class too few to stratify.
    """
    rows = len(labels)
    counts = [
        size if isinstance(size, int) else round(size * rows) for size in (params.train_size, params.validation_size)
    ]
    if min(counts) < 1 or sum(counts) >= rows:
        raise StageError(
            f"{path}: {rows} rows are too few for prepare.train_size = {params.train_size} and "
            f"prepare.validation_size = {params.validation_size}, with at least one row left to test"
        )
    everything = np.arange(rows)
    try:
        train, rest = train_test_split(
            everything, train_size=counts[0], stratify=labels if params.stratify else None, random_state=params.seed
        )
        validation, test = train_test_split(
            rest, train_size=counts[1], stratify=labels[rest] if params.stratify else None, random_state=params.seed
        )
    except ValueError as error:
        raise StageError(f"{path}: prepare.stratify = true: {error}") from None
    return {"train": np.sort(train), "validation": np.sort(validation), "test": np.sort(test)}


def mean_and_deviation(sequences: NDArray[np.float32]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each feature over rows and time, in float64, chunk by chunk."""
    chunks = [slice(start, start + CHUNK_ROWS) for start in range(0, len(sequences), CHUNK_ROWS)]
    count = sequences.shape[0] * sequences.shape[1]
    mean = sum(sequences[chunk].sum(axis=(0, 1), dtype=np.float64) for chunk in chunks) / count
    variance = sum(np.square(sequences[chunk] - mean).sum(axis=(0, 1)) for chunk in chunks) / count
    return np.asarray(mean).tolist(), np.sqrt(variance).tolist()


def prepare(table: Path, folder: Path, params: Params) -> None:
    """Write the prepared folder: read the table once into a scratch file, then deal its rows out to the splits."""
    scratch = folder.with_name(f"{folder.name}.values")
    try:
        with scratch.open("wb") as values_file:
            labels, features, time_steps = read_table(table, params, values_file)
        values = np.memmap(scratch, dtype=np.float32, mode="r", shape=(len(labels), time_steps, len(features)))
        rows = split_rows(labels, params, table)
        counts = {split: len(rows[split]) for split in SPLITS}
        writer = PreparedWriter(folder, counts, time_steps, len(features), ragged=False)
        for split in SPLITS:
            for start in range(0, len(rows[split]), CHUNK_ROWS):
                chosen = rows[split][start : start + CHUNK_ROWS]
                writer.splits[split].sequences[start : start + CHUNK_ROWS] = values[chosen]
                writer.splits[split].labels[start : start + CHUNK_ROWS] = labels[chosen]
        mean, deviation = mean_and_deviation(writer.splits["train"].sequences)
        writer.close(features, [str(name) for name in params.classes], mean, deviation)
    finally:
        scratch.unlink(missing_ok=True)


def main() -> None:
    """Read the arguments and the parameters; write the prepared folder."""
    args = parse_args(
        __doc__, inputs={"table": "a CSV or Parquet table"}, outputs={"prepared": "the folder of prepared arrays"}
    )
    params = read_params("prepare", Params)
    with replacing(args.prepared) as folder:
        prepare(args.table, folder, params)


if __name__ == "__main__":
    run(main)

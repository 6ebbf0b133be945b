"""A labelled table -> checked sequences, chunk by chunk, so that a table of any length passes through little memory.

A table is a file of CSV or Parquet, or a folder of Parquet files, which are read in the order of their names as if they
were one. It has one of two layouts:

    wide   A row is a sequence. Its values stand in columns `<feature>.<step>` with steps 0, 1, 2 ... (`ax.0` ...
           `gz.99`); `<feature>_<step>` and `<feature><step>` (`x0` ... `x5`) are read alike.
    long   A row is a time step: the id of its sequence, its time, and one column a feature. The rows of a sequence
           stand together, in rising time. Label, group and split are the same in all of them.

A missing value is an empty cell, `nan`, `NaN` or `NA` in CSV, and a null or NaN in Parquet. Rows are counted from 1 at
the first below the header; those of a folder in each of its files.
"""

import bisect
import csv
import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shared.data.spool import Spool
from shared.kit.params import Count, StageParams, shortened, shown
from shared.kit.stage import StageError, one_line, reading, size_of

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationInfo, field_validator

CHUNK_ROWS = 65_536  # what is in memory at once,
CHUNK_CELLS = 4_000_000  # and fewer rows of a wide table
READ_BYTES = 1 << 20
MOST_STEP_DIGITS = 9
MISSING_IN_CSV = ["", "nan", "NaN", "NA"]
HASHES_AT_ONCE = 4_000_000
LONGEST_HEADER = 1 << 24  # bytes: a file without lines is no table

NANOSECOND_RANGE = (pd.Timestamp("1678-01-01", tz="UTC"), pd.Timestamp("2262-01-01", tz="UTC"))
"""What a count of nanoseconds in 64 bits reaches."""

Bools = NDArray[np.bool_]


class TableParams(StageParams):
    """The keys of section `prepare` that say how the table is to be read."""

    layout: Literal["wide", "long"]
    label_column: str | int
    id_column: str | None
    time_column: str | None
    group_column: str | None
    split_column: str | None
    features: list[str] | None
    time_steps: Count | None
    ragged: bool
    missing: Literal["refuse", "zero", "previous", "mean"]

    @field_validator("id_column", "time_column")
    @classmethod
    def _fits_the_layout(cls, column: str | None, info: ValidationInfo) -> str | None:
        layout = info.data.get("layout")
        if layout == "long" and column is None:
            raise ValueError("prepare.layout = 'long' needs this column's name")
        if layout == "wide" and column is not None:
            raise ValueError("prepare.layout = 'wide' has no such column; expected null")
        return column

    @field_validator("features")
    @classmethod
    def _some_and_distinct(cls, features: list[str] | None) -> list[str] | None:
        if features is not None and len(set(features)) < max(len(features), 1):
            raise ValueError("should be null (all that the table has) or name at least one, each once")
        return features


@dataclass(frozen=True)
class Keys:
    """A column of text: row i holds `names[codes[i]]`."""

    codes: NDArray[np.int64]
    names: list[str]

    def take(self, rows: NDArray[Any]) -> "Keys":
        """The given rows of the column."""
        return Keys(self.codes[rows], self.names)


@dataclass(frozen=True)
class Chunk:
    """Some steps of the table, and the sequences that begin among them; the last may go on in the next chunk.

    Attributes:
        values: (steps, features), float32; NaN where a value is missing and may be.
        starts: (sequences,): the step at which each begins, counted over the whole table.
        rows: (sequences,): the table's row at which each begins.
        labels: Of each sequence.
        groups: Of each sequence; None without a group column.
        splits: Of each sequence; None without a split column.
    """

    values: NDArray[np.float32]
    starts: NDArray[np.int64]
    rows: NDArray[np.int64]
    labels: Keys
    groups: Keys | None
    splits: Keys | None


class Table:
    """A table whose columns have been found; its rows are read and checked by `chunks`.

    Attributes:
        features: Their names, in the order of the table or of `prepare.features`.

    Raises:
        StageError: The file is neither CSV nor Parquet or cannot be read, or lacks a column that it needs; the files of
            a folder have different columns.
    """

    def __init__(self, path: Path, params: TableParams) -> None:
        self.path = path
        self._params = params
        self._parts = find_parts(path)
        self._first_rows = first_rows(self._parts)
        names = read_header(self._parts[0])
        for part in self._parts[1:]:
            check_same_columns(part, read_header(part), self._parts[0], names)
        self._roles = find_roles(names, params, path)
        rest = [name for name in names if name not in self._roles.values()]
        if params.layout == "wide":
            self.features, self._columns = find_wide_features(rest, params.features, path)
        else:
            self.features = self._columns = find_long_features(rest, params.features, path)

    def chunks(self, scratch: Path) -> Iterator[Chunk]:
        """Read and check every row; `scratch` is where a file may be made for as long as that takes.

        Raises:
            StageError: Anything in the table is wrong; it names the row, the column, what was found, what is allowed.
        """
        if self._params.layout == "wide":
            yield from self._wide_chunks()
        else:
            yield from self._long_chunks(scratch)

    def _wide_chunks(self) -> Iterator[Chunk]:
        shape = (-1, len(self._columns) // len(self.features), len(self.features))
        step = 0
        for first_row, batch in self._batches([*self._columns, *self._roles.values()]):
            cells = self._numbers(batch, first_row)
            missing = np.isnan(cells)
            lengths = np.full(len(cells), shape[1])
            if self._params.ragged:
                used: Bools = np.any(~missing.reshape(shape), axis=2)
                lengths = shape[1] - used[:, ::-1].argmax(axis=1)
                padding = np.repeat(np.arange(shape[1]) >= lengths[:, None], shape[2], axis=1)
                missing &= ~padding
                empty = missing.all(axis=1)
                if empty.any():
                    raise StageError(f"{self.at(first_row + int(empty.argmax()))}: no value in any column")
            self._check(cells, missing, batch, first_row)
            values = cells.reshape(-1, shape[2])
            if self._params.ragged:
                values = values[~padding[:, :: shape[2]].ravel()]
            keys = {role: self._keys(batch, role, first_row) for role in self._roles}
            ends = step + np.cumsum(lengths)
            rows = np.arange(first_row, first_row + len(cells))
            yield Chunk(values, ends - lengths, rows, keys["label"], keys.get("group"), keys.get("split"))
            step = int(ends[-1])

    def _long_chunks(self, scratch: Path) -> Iterator[Chunk]:
        last: dict[str, str] = {}
        last_time: Any = None
        with Spool(scratch, np.uint64) as hashes:
            for first_row, batch in self._batches([*self._columns, *self._roles.values()]):
                cells = self._numbers(batch, first_row)
                self._check(cells, np.isnan(cells), batch, first_row)
                keys = {role: self._keys(batch, role, first_row) for role in self._roles if role != "time"}
                ids = keys["id"]
                new = changes(ids, last.get("id"))
                last_time = self._check_times(batch, new, last_time, first_row)
                for role in keys.keys() - {"id"}:
                    wrong = changes(keys[role], last.get(role)) & ~new
                    if wrong.any():
                        row = int(wrong.argmax())
                        found = shown(keys[role].names[keys[role].codes[row]])
                        raise StageError(
                            f"{self.cell(first_row + row, role)}: found {found} after another "
                            f"{role} in the same sequence, {shown(ids.names[ids.codes[row]])}"
                        )
                last = {role: column.names[column.codes[-1]] for role, column in keys.items()}
                begins = np.flatnonzero(new)
                hashes.append(hash_names(ids)[begins])
                keys = {role: column.take(begins) for role, column in keys.items()}
                rows = first_row + begins
                yield Chunk(cells, rows - 1, rows, keys["label"], keys.get("group"), keys.get("split"))
            self._check_together(find_repeated(hashes))

    def _batches(self, columns: list[str]) -> Iterator[tuple[int, Any]]:
        """Record batches that are not empty, each with the number of its first row."""
        row = 1
        text_columns = [name for role, name in self._roles.items() if role != "time"]
        for part in self._parts:
            for batch in read_batches(part, columns, text_columns):
                if batch.num_rows:
                    yield row, batch
                row += batch.num_rows

    def _readable(self, read: Callable[[Any], Any], batch: Any, name: str, first_row: int) -> Any:
        """What a function reads in a column; a value that it cannot read is named by its row."""
        column = batch.column(name)
        try:
            return read(column)
        except (ValueError, pa.ArrowException) as error:
            row = next((row for row in range(len(column)) if not is_readable(column[row])), 0)
            raise StageError(
                f"{self.at(first_row + row)}, column {shown(name)}: cannot be read: {one_line(error)}"
            ) from None

    def _numbers(self, batch: Any, first_row: int) -> NDArray[np.float32]:
        """(rows, columns): NaN where a value is missing, infinite where it is no number."""
        cells = np.empty((batch.num_rows, len(self._columns)), np.float32)
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, and is refused as such
            for index, name in enumerate(self._columns):
                cells[:, index] = self._readable(to_numbers, batch, name, first_row)
        return cells

    def _check(self, cells: NDArray[np.float32], missing: Bools, batch: Any, first_row: int) -> None:
        """Refuse what is not finite, and what is missing if nothing shall be filled in."""
        bad = np.isinf(cells)
        if self._params.missing == "refuse":
            bad |= missing
        if bad.any():
            row, index = divmod(int(bad.argmax()), len(self._columns))
            column = self._columns[index]
            found = show(batch.column(column)[row])
            hint = " (prepare.missing can fill it)" if missing[row, index] else ""
            raise StageError(
                f"{self.at(first_row + row)}, column {shown(column)}: found {found}; expected a finite number{hint}"
            )

    def _check_times(self, batch: Any, new: Bools, last_time: Any, first_row: int) -> Any:
        """Refuse times that do not rise within a sequence; the last is handed on to the next call."""
        column = batch.column(self._roles["time"])
        times, none = self._readable(to_times, batch, self._roles["time"], first_row)
        if none.any():
            row = int(none.argmax())
            raise StageError(
                f"{self.cell(first_row + row, 'time')}: found {show(column[row])}; "
                "expected a finite number or a date and time (ISO 8601) of the years 1678 to 2261"
            )
        rising = np.empty(len(times), bool)
        rising[1:] = times[1:] > times[:-1]
        rising[0] = last_time is None or times[0] > last_time
        wrong = ~rising & ~new
        if wrong.any():
            row = int(wrong.argmax())
            raise StageError(
                f"{self.cell(first_row + row, 'time')}: found {show(column[row])}, which is not after the row "
                "above; the rows of a sequence should stand in rising time"
            )
        return times[-1]

    def _keys(self, batch: Any, role: str, first_row: int) -> Keys:
        """A column of text, none of which may be missing."""
        try:
            keys: Keys = self._readable(to_keys, batch, self._roles[role], first_row)
        except TypeError as error:
            raise StageError(
                f"{self.path}, column {shown(self._roles[role])}: found values of type {shortened(str(error))}; "
                "expected text, numbers or dates"
            ) from None
        if "" in keys.names:
            row = int((keys.codes == keys.names.index("")).argmax())
            raise StageError(f"{self.cell(first_row + row, role)}: found no value; every sequence needs its {role}")
        return keys

    def _check_together(self, suspects: set[int]) -> None:
        """Read the ids of the table again, to find the second place of a sequence that stands in two."""
        seen: set[str] = set()
        last = None
        for first_row, batch in self._batches([self._roles["id"]]) if suspects else ():
            ids = self._keys(batch, "id", first_row)
            suspected = changes(ids, last) & np.isin(hash_names(ids), list(suspects))
            for row in np.flatnonzero(suspected):
                name = ids.names[ids.codes[row]]
                if name in seen:
                    raise StageError(
                        f"{self.cell(first_row + int(row), 'id')}: sequence {shown(name)} has other rows further up; "
                        "the rows of a sequence should stand together"
                    )
                seen.add(name)
            last = ids.names[ids.codes[-1]]

    def cell(self, row: int, role: str) -> str:
        """A cell by its row and by what its column holds, as messages name it."""
        return f"{self.at(row)}, column {shown(self._roles[role])}"

    def at(self, row: int) -> str:
        """A row of the whole table, as messages name it: in which file it stands, and where in that."""
        part = bisect.bisect(self._first_rows, row) - 1
        return f"{self._parts[part]}, row {row - self._first_rows[part] + 1}"


@contextmanager
def reading_table(path: Path) -> Iterator[None]:
    """As `reading`, but a fault in CSV is named by its row.

    Raises:
        StageError: The table cannot be read.
    """
    with reading(path, "table"):
        try:
            yield
        except pd.errors.EmptyDataError:
            raise StageError(f"{path}: the table is empty") from None
        except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError) as error:
            if path.suffix != ".csv":
                raise
            raise StageError(f"{path}{find_csv_fault(path, error)}") from None


def find_parts(path: Path) -> list[Path]:
    """The files of a table, in order: its own, or those of a folder, less what others leave there (`_SUCCESS`).

    Raises:
        StageError: The folder cannot be read, or holds none, or something else.
    """
    if not path.is_dir():
        return [path]
    with reading(path, "table"):
        parts = sorted(part for part in path.iterdir() if not part.name.startswith((".", "_")))
    for part in parts:
        if part.suffix != ".parquet" or part.is_dir():
            raise StageError(f"{part}: the folder of a table should hold .parquet files and nothing else")
    if not parts:
        raise StageError(f"{path}: no .parquet file in this folder")
    return parts


def first_rows(parts: list[Path]) -> list[int]:
    """The number of the first row of each file, over all of them."""
    if len(parts) == 1:
        return [1]
    rows = []
    for part in parts:
        with reading_table(part):
            rows.append(pq.read_metadata(part).num_rows)
    return list(itertools.accumulate(rows[:-1], initial=1))


def check_same_columns(part: Path, names: list[str], first: Path, expected: list[str]) -> None:
    """Refuse a file whose columns are not those of the first one, in any order.

    Raises:
        StageError: It names the columns.
    """
    if lacking := [name for name in expected if name not in names]:
        raise StageError(f"{part}: lacks {listed(lacking)}, which {first.name} has")
    if further := [name for name in names if name not in expected]:
        raise StageError(f"{part}: has {listed(further)}, which {first.name} lacks")


def read_header(path: Path) -> list[str]:
    """The names of the table's columns.

    Raises:
        StageError: The file is neither CSV nor Parquet, is empty or cannot be read, or a name stands there twice.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise StageError(f"{path}: a table should be .csv or .parquet")
    with reading_table(path):
        size_of(path)
        if path.suffix == ".parquet":
            names = [str(name) for name in pq.read_schema(path).names]
        else:
            with path.open("rb") as file:
                start = file.read(LONGEST_HEADER)
            if len(start) == LONGEST_HEADER and b"\n" not in start and b"\r" not in start:
                raise StageError(f"{path}: the first {LONGEST_HEADER:,} bytes hold no line; is it a CSV table?")
            names = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0].tolist()
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise StageError(f"{path}: two columns are called {shown(name)}")
        seen.add(name)
    return names


def read_batches(path: Path, columns: list[str], text_columns: list[str]) -> Iterator[Any]:
    """Yield the table as Arrow record batches of at most `CHUNK_ROWS` rows.

    Raises:
        StageError: The file cannot be parsed (a row too long, an open quote).
    """
    rows = max(1, min(CHUNK_ROWS, CHUNK_CELLS // len(columns)))
    with reading_table(path):
        if path.suffix == ".parquet":
            # Buffered: else all that has been read, or a whole row group, is kept in memory.
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES) as file:
                yield from file.iter_batches(rows, columns=columns, use_threads=False)
            return
        names = read_header(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # every row longer than the header
            frames = pd.read_csv(
                path,
                names=names,  # as they stand: pandas renames an empty one
                header=0,
                chunksize=rows,
                index_col=False,
                low_memory=False,  # else one column may come in several types
                dtype=dict.fromkeys(text_columns, str),
                keep_default_na=False,  # a class may be called "None" or "NA"
                na_values={name: MISSING_IN_CSV for name in names if name not in text_columns},
            )
            for frame in frames:
                beyond = [name for name in columns if frame[name].dtype == object]  # integers of more than 64 bits
                chosen = frame[columns].astype(dict.fromkeys(beyond, str)) if beyond else frame[columns]
                yield pa.RecordBatch.from_pandas(chosen, preserve_index=False)


def find_csv_fault(path: Path, error: Exception) -> str:
    """What a parser of CSV stumbled over, by the row that holds it: pandas counts lines, and the header with them."""
    width, row, place = 0, 0, ""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        try:
            for cells in csv.reader(file):
                if len(cells) < 2 and not "".join(cells).strip():  # as pandas does: an empty line is no row
                    continue
                place = f", row {row}" if row else ", header"
                if not "".join(cells).isprintable():
                    for cell in cells:
                        if any("\udc80" <= character <= "\udcff" for character in cell):
                            return f"{place}: found {shown(cell.encode(errors='surrogateescape'))}, which is not UTF-8"
                width = width or len(cells)
                if len(cells) > width:
                    return f"{place}: found {len(cells)} cells, but the header has {width}"
                row += 1
        except csv.Error:  # a cell longer than that module takes
            return f", row {row}: a cell is too long; is a quotation mark never closed?"
    if "inside string" in str(error):
        return f"{place}: a quotation mark is opened and never closed"
    return f": not a readable table: {type(error).__name__}"


def find_roles(names: list[str], params: TableParams, path: Path) -> dict[str, str]:
    """The columns that hold no values, by what they hold: `label`, `id`, `time`, `group`, `split`.

    Raises:
        StageError: One is missing, or has two roles.
    """
    roles: dict[str, str] = {}
    for role in ("label", "id", "time", "group", "split"):
        key = f"{role}_column"
        column: str | int | None = getattr(params, key)
        if isinstance(column, int):
            if not -len(names) <= column < len(names):
                raise StageError(
                    f"{path}: prepare.{key} = {shown(column)}: the table has {len(names)} columns, the first is 0"
                )
            column = names[column]
        if column is None:
            continue
        if column not in names:
            raise StageError(f"{path}: no {role} column {shown(column)} (prepare.{key}); found {listed(names)}")
        for other, taken in roles.items():
            if taken == column:
                raise StageError(f"{path}: column {shown(column)} is both prepare.{other}_column and prepare.{key}")
        roles[role] = column
    return roles


def find_wide_features(names: list[str], wanted: list[str] | None, path: Path) -> tuple[list[str], list[str]]:
    """The features, and the columns of their values: all features of the first step, then of the second ...

    Raises:
        StageError: A name does not fit, or a feature lacks a time step.
    """
    steps: dict[str, dict[int, str]] = {}
    separators: dict[str, str] = {}
    for name in names:
        match = re.fullmatch(r"(.+?)([._]?)(?<!\d)(\d+)", name, re.ASCII)
        if match and len(match[3]) > MOST_STEP_DIGITS:
            raise StageError(f"{path}: column {shown(name)}: a time step of {len(match[3])} digits")
        if match:
            feature, separator, step = match[1], match[2], int(match[3])
            columns = steps.setdefault(feature, {})
            if step in columns:
                raise StageError(
                    f"{path}: columns {shown(columns[step])} and {shown(name)} are the same step of {shown(feature)}"
                )
            columns[step] = name
            separators[feature] = separator
        elif wanted is None:
            raise StageError(
                f"{path}: column {shown(name)} is neither the label nor named <feature>.<step>, as in x.0; "
                "prepare.features can name the features to read"
            )
    if not steps:
        raise StageError(f"{path}: no column is named <feature>.<step>, as in x.0")
    features = wanted or list(steps)
    for feature in features:
        if feature not in steps:
            raise StageError(f"{path}: no feature {shown(feature)} (prepare.features); found {listed(list(steps))}")
    time_steps = max(max(steps[feature]) for feature in features) + 1
    for feature in features:
        if len(steps[feature]) < time_steps:
            missing = next(step for step in itertools.count() if step not in steps[feature])
            raise StageError(
                f"{path}: column {shortened(feature)}{separators[feature]}{missing} is missing; "
                f"every feature needs steps 0 to {time_steps - 1}"
            )
    return features, [steps[feature][step] for step in range(time_steps) for feature in features]


def find_long_features(names: list[str], wanted: list[str] | None, path: Path) -> list[str]:
    """The features, each of which is a column.

    Raises:
        StageError: There is none, or one that is wanted is missing.
    """
    for feature in wanted or ():
        if feature not in names:
            raise StageError(f"{path}: no feature {shown(feature)} (prepare.features); found {listed(names)}")
    if not names:
        raise StageError(f"{path}: no column is left for a feature beside label, id and time")
    return wanted or names


def decoded(column: Any) -> Any:
    """A column whose values stand in it, not in a dictionary or a view, as pandas and polars write them."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_string()) if column.type == pa.string_view() else column


def to_numbers(column: Any) -> NDArray[Any]:
    """A column's numbers: NaN where a value is missing, infinite where it is no number."""
    column = decoded(column)
    kind = column.type
    if pa.types.is_floating(kind):
        numbers: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    elif pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):  # in CSV: one of them at least is no number
        text = column.to_pandas()
        numbers = pd.to_numeric(text, errors="coerce").to_numpy(np.float64, na_value=np.nan, copy=True)
        numbers[np.isnan(numbers) & ~text.isin(MISSING_IN_CSV).to_numpy() & text.notna().to_numpy()] = np.inf
    else:
        numbers = np.full(len(column), np.inf)
    return numbers


def to_times(column: Any) -> tuple[NDArray[Any], Bools]:
    """Numbers that rise as the times do, and where there is no time."""
    column = decoded(column)
    kind = column.type
    none: Bools = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_floating(kind):
        numbers: NDArray[Any] = column.to_numpy(zero_copy_only=False)
        return numbers, ~np.isfinite(numbers)
    if none.any():
        return np.zeros(len(column)), none
    if pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        ticks: NDArray[Any] = column.to_numpy(zero_copy_only=False)
        return ticks if ticks.dtype.kind in "iu" else ticks.astype(np.int64), none
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = column.to_pandas()
        numbers = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
        no_numbers: Bools = ~np.isfinite(numbers)
        if not no_numbers.any():
            return numbers, no_numbers
        moments = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
        none = ~moments.between(*NANOSECOND_RANGE).to_numpy()  # not a time is not between
        if none.any():
            return numbers, none & no_numbers if (none & no_numbers).any() else none
        return moments.dt.as_unit("ns").astype(np.int64).to_numpy(), none
    return np.zeros(len(column)), ~none


def to_keys(column: Any) -> Keys:
    """A column as text; a missing value is the empty text.

    Raises:
        TypeError: Its values are lists, bytes or of another type without a text of its own.
        ValueError: One of them cannot be read: text that is not UTF-8, a date beyond the calendar.
    """
    column = decoded(column)
    kind = column.type
    if not (pa.types.is_primitive(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
            or pa.types.is_decimal(kind) or pa.types.is_null(kind)):  # fmt: skip
        raise TypeError(str(kind))
    try:
        encoded = column.dictionary_encode(null_encoding="encode")
        names = ["" if pd.isna(name) else str(name) for name in encoded.dictionary.to_pylist()]
    except NotImplementedError as error:
        raise TypeError(str(error)) from None
    except OverflowError as error:
        raise ValueError(str(error)) from None
    return Keys(encoded.indices.to_numpy().astype(np.int64), names)


def is_readable(cell: Any) -> bool:
    """Whether a value of Arrow's is one of Python's too."""
    try:
        cell.as_py()
    except (ValueError, OverflowError):
        return False
    return True


def changes(keys: Keys, before: str | None) -> Bools:
    """Where the text differs from the row above; `before` is what stands above the first."""
    changed = np.empty(len(keys.codes), bool)
    changed[1:] = keys.codes[1:] != keys.codes[:-1]
    changed[0] = keys.names[keys.codes[0]] != before
    return changed


def hash_names(keys: Keys) -> NDArray[np.uint64]:
    """64 bits for the text of each row, the same in every run."""
    return pd.util.hash_array(np.array(keys.names, dtype=object), categorize=False)[keys.codes]


def find_repeated(hashes: Spool) -> set[int]:
    """The hashes that stand there twice, found in as many passes as memory for `HASHES_AT_ONCE` asks for."""
    repeated: set[int] = set()
    passes = -(-len(hashes) // HASHES_AT_ONCE)
    for remainder in range(passes):
        parts = []
        for start in range(0, len(hashes), HASHES_AT_ONCE):
            part = hashes.read(start, start + HASHES_AT_ONCE)
            parts.append(part[part % passes == remainder])
        ordered = np.sort(np.concatenate(parts))
        repeated.update(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    return repeated


def show(cell: Any) -> str:
    """A table's value, as a message quotes it."""
    if not is_readable(cell):
        return f"a value of type {cell.type} that cannot be read"
    value = cell.as_py()
    return "no value" if value is None or value == "" or value != value else shown(value)


def listed(names: list[str]) -> str:
    """Names as a message lists them: a table may have thousands."""
    return ", ".join(map(shortened, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")

"""Check the table of sequences and split it: a table of CSV or Parquet in; memory-mapped arrays and their schema out.

The two layouts of a table are described in `shared/data/tables.py`, how the rows are drawn in
`shared/data/splitting.py`. The table is read once, into columns on disk; what is in memory does not grow with its rows.
"""

import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from shared.data.filling import Floats, Ints, Moments, fill_previous, pad
from shared.data.sequences import SPLITS, PreparedWriter, Schema, Split
from shared.data.splitting import BLOCK_ROWS, count_rows, deal, deal_groups, proportional
from shared.data.spool import Spool
from shared.data.tables import Chunk, Keys, Table, TableParams, listed
from shared.kit.params import Seed, Size, read_params, shown
from shared.kit.stage import StageError, parse_args, remove, replacing, run

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import Field, ValidationInfo, field_validator
from tqdm import tqdm

CHUNK_CELLS = 4_000_000  # values of the prepared arrays in memory at once
MOST_CLASSES = 1000  # more different labels than these are taken for a mistake
TRAIN, VALIDATION, TEST = range(3)  # places in SPLITS


class Params(TableParams):
    """Section `prepare`."""

    classes: list[str | int] | None = Field(min_length=2)
    train_size: Size | None
    validation_size: Size | None
    stratify: bool
    seed: Seed

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: list[str | int] | None) -> list[str | int] | None:
        if len({str(name) for name in classes or ()}) < len(classes or ()):
            raise ValueError("every class should be named once")
        return classes

    @field_validator("train_size", "validation_size")
    @classmethod
    def _not_beside_a_split_column(cls, size: Any, info: ValidationInfo) -> Any:
        given = info.data.get("split_column") is not None
        if given and info.field_name == "train_size" and size is not None:
            raise ValueError("expected null, because prepare.split_column gives the split")
        if not given and size is None:
            raise ValueError("may be null only where prepare.split_column gives the split")
        return size

    @field_validator("stratify")
    @classmethod
    def _not_beside_groups(cls, stratify: bool, info: ValidationInfo) -> bool:
        if stratify and info.data.get("group_column") is not None:
            raise ValueError("a split by prepare.group_column cannot be stratified too")
        return stratify


class Rows:
    """The checked sequences, as columns on disk.

    Attributes:
        values: (steps, features), float32: the steps of all sequences one after another; NaN where one is missing.
        starts: The step at which each sequence starts, and after the last their number.
        labels: A code for each label, in the order in which they were found.
        class_of: The class of each code; set once all labels are known.
        groups: An index into the groups; empty without a group column.
        given: An index into `SPLITS`; empty without a split column.
        drawn: The same, once the splits are drawn.
    """

    def __init__(self, scratch: Path, stack: ExitStack, features: int, *, long: bool) -> None:
        def spool(name: str, dtype: DTypeLike, width: int | None = None) -> Spool:
            return stack.enter_context(Spool(scratch / name, dtype, width))

        self.values = spool("values", np.float32, features)
        self.starts = spool("starts", np.int64)
        self.labels = spool("labels", np.int64)
        self.groups = spool("groups", np.int64)
        self.given = spool("given", np.uint8)
        self.drawn = spool("drawn", np.uint8)
        self.class_of: Ints = np.empty(0, np.int64)
        self._long = long

    def __len__(self) -> int:
        return len(self.labels)

    def chunks(self, rows: int, name: str | None = None) -> Iterator[tuple[int, int]]:
        """Where every `rows` sequences start and stop; a name shows their progress."""
        for start in tqdm(range(0, len(self), rows), desc=name, unit="chunk", disable=None if name else True):
            yield start, min(start + rows, len(self))

    def classes(self, start: int, stop: int) -> Ints:
        """The class of each of these sequences, as an index."""
        classes: Ints = self.class_of[self.labels.read(start, stop)]
        return classes

    def lengths(self, start: int, stop: int) -> Ints:
        """How many steps each of these sequences has."""
        return np.diff(self.starts.read(start, stop + 1))

    def steps(self, start: int, stop: int) -> Floats:
        """The steps of these sequences, one after another."""
        first, last = (int(self.starts.read(row, row + 1)[0]) for row in (start, stop))
        return self.values.read(first, last)

    def table_row(self, row: int) -> int:
        """The table's row at which a sequence begins."""
        return 1 + (int(self.starts.read(row, row + 1)[0]) if self._long else row)


def read_rows(table: Table, rows: Rows, params: Params, scratch: Path) -> tuple[list[str], list[str]]:
    """Read and check the whole table.

    Returns:
        The labels, in the order of their codes, and likewise the groups.

    Raises:
        StageError: Anything in the table is wrong.
    """
    classes = {str(name): code for code, name in enumerate(params.classes or ())}
    groups: dict[str, int] = {}  # every name is kept in memory
    splits: dict[str, int] = {name: code for code, name in enumerate(SPLITS)}
    steps = 0
    for chunk in tqdm(table.chunks(scratch / "ids"), desc="read", unit="chunk", disable=None):
        if params.classes is None:
            extend(classes, chunk.labels)
            if len(classes) > MOST_CLASSES:
                raise StageError(
                    f"{table.path}: over {MOST_CLASSES} different labels in prepare.label_column = "
                    f"{params.label_column!r}; is it the right column? Found {listed(list(classes))}"
                )
        rows.values.append(chunk.values)
        rows.starts.append(chunk.starts)
        rows.labels.append(look_up(chunk.labels, classes, "label", "prepare.classes allows", chunk, table))
        if chunk.groups:
            extend(groups, chunk.groups)
            rows.groups.append(look_up(chunk.groups, groups, "group", "expected", chunk, table))
        if chunk.splits:
            rows.given.append(look_up(chunk.splits, splits, "split", "expected", chunk, table))
        steps += len(chunk.values)
    if steps == 0:
        raise StageError(f"{table.path}: the table has no rows")
    rows.starts.append(np.array([steps]))
    return list(classes), list(groups)


def extend(codes: dict[str, int], keys: Keys) -> None:
    """Give every new name the next code."""
    for name in keys.names:
        codes.setdefault(name, len(codes))


def look_up(keys: Keys, codes: dict[str, int], role: str, allowed: str, chunk: Chunk, table: Table) -> Ints:
    """The code of each row's name.

    Raises:
        StageError: A name has none.
    """
    found: Ints = np.array([codes.get(name, -1) for name in keys.names])[keys.codes]
    unknown = found < 0
    if unknown.any():
        index = int(unknown.argmax())
        raise StageError(
            f"{table.cell(int(chunk.rows[index]), role)}: found {shown(keys.names[keys.codes[index]])}; "
            f"{allowed} {listed(list(codes))}"
        )
    return found


def order_classes(labels: list[str], params: Params, path: Path) -> list[str]:
    """The classes in the order of the logits: as in `prepare.classes`, or the labels sorted, numbers by their value.

    Raises:
        StageError: The table has only one.
    """
    if params.classes is not None:
        return labels
    if len(labels) < 2:
        raise StageError(f"{path}: every label is {shown(labels[0])}; a classifier needs two classes")
    try:
        values = {label: float(label) for label in labels}
    except ValueError:
        return sorted(labels)
    if not all(map(math.isfinite, values.values())):  # "nan" is a name
        return sorted(labels)
    return sorted(labels, key=lambda label: (values[label], label))


def check_lengths(rows: Rows, params: Params, table: Table) -> tuple[int, int]:
    """The shortest and the longest sequence, in steps.

    Raises:
        StageError: One is longer than `prepare.time_steps`, or they differ and may not.
    """
    allowed = params.time_steps or math.inf
    expected = params.time_steps or int(rows.lengths(0, 1)[0])
    shortest, longest = math.inf, 0
    for start, stop in rows.chunks(BLOCK_ROWS):
        lengths = rows.lengths(start, stop)
        wrong = lengths > allowed if params.ragged else lengths != expected
        if wrong.any():
            index = int(wrong.argmax())
            known = f"prepare.time_steps = {expected}" if params.time_steps else f"the first has {expected}"
            hint = "" if params.ragged else "; prepare.ragged = true lets lengths differ"
            raise StageError(
                f"{table.at(rows.table_row(start + index))}: a sequence of {lengths[index]} steps, but {known}{hint}"
            )
        shortest, longest = min(shortest, int(lengths.min())), max(longest, int(lengths.max()))
    return int(shortest), longest


def check_groups(rows: Rows, groups: list[str], table: Table) -> None:
    """Refuse a group that the split column puts into two splits.

    Raises:
        StageError: It names the group and a row of it.
    """
    split_of = np.full(len(groups), -1)
    for start, stop in rows.chunks(BLOCK_ROWS):
        group, given = rows.groups.read(start, stop), rows.given.read(start, stop)
        new = split_of[group] < 0
        split_of[group[new][::-1]] = given[new][::-1]  # backwards, because the last of equal groups is kept
        wrong = split_of[group] != given
        if wrong.any():
            index = int(wrong.argmax())
            raise StageError(
                f"{table.cell(rows.table_row(start + index), 'split')}: found {SPLITS[given[index]]!r}, "
                f"but other rows of group {shown(groups[group[index]])} are in another split"
            )


def draw_splits(rows: Rows, labels: list[str], groups: list[str], params: Params, path: Path) -> Ints:
    """Fill `rows.drawn`: rows that the table gives to a split keep it, the others are drawn.

    Returns:
        (splits, classes): how many rows of each class each split has.

    Raises:
        StageError: There are too few rows, groups or rows of a class for the sizes asked for.
    """
    # What the table leaves open: all rows without a split column, and its training rows with one.
    given_rows, free_labels, free_groups = count_free(rows, len(labels), len(groups))
    sizes = target_sizes(given_rows, params, path)
    rng = np.random.default_rng(params.seed)
    left = proportional(free_labels if params.stratify else free_labels.sum(keepdims=True), sizes)
    if params.stratify:
        check_strata(left, sizes, labels, path)
    try:
        split_of_group = deal_groups(free_groups, sizes, rng) if groups else np.empty(0, np.uint8)
    except StageError as error:
        raise StageError(f"{path}: prepare.group_column = {params.group_column!r}: {error}") from None
    class_rows = np.zeros((len(SPLITS), len(labels)), np.int64)
    for start, stop in rows.chunks(BLOCK_ROWS, "split"):
        drawn = rows.given.read(start, stop) if rows.given else np.full(stop - start, TRAIN, np.uint8)
        free = drawn == TRAIN
        if groups:
            drawn[free] = split_of_group[rows.groups.read(start, stop)[free]]
        else:
            strata = rows.labels.read(start, stop) if params.stratify else np.zeros(stop - start, np.int64)
            drawn[free] = deal(strata[free], left, rng)
        rows.drawn.append(drawn)
        pairs = drawn * np.int64(len(labels)) + rows.classes(start, stop)
        class_rows += np.bincount(pairs, minlength=class_rows.size).reshape(class_rows.shape)
    return class_rows


def count_groups(rows: Rows, groups: int) -> dict[Split, int]:
    """How many groups are in each split."""
    seen = np.zeros((len(SPLITS), groups), bool)
    for start, stop in rows.chunks(BLOCK_ROWS):
        seen[rows.drawn.read(start, stop), rows.groups.read(start, stop)] = True
    return dict(zip(SPLITS, seen.sum(axis=1).tolist(), strict=True))


def count_free(rows: Rows, labels: int, groups: int) -> tuple[Ints, Ints, Ints]:
    """How many rows the table gives to each split (all to train without a split column).

    Returns:
        Of each split; of those given to train, of each label's code; and of each group.
    """
    splits, free_labels, free_groups = (np.zeros(size, np.int64) for size in (len(SPLITS), labels, groups))
    for start, stop in rows.chunks(BLOCK_ROWS):
        given = rows.given.read(start, stop) if rows.given else np.full(stop - start, TRAIN, np.uint8)
        splits += np.bincount(given, minlength=len(splits))
        free_labels += np.bincount(rows.labels.read(start, stop)[given == TRAIN], minlength=labels)
        if groups:
            free_groups += np.bincount(rows.groups.read(start, stop)[given == TRAIN], minlength=groups)
    return splits, free_labels, free_groups


def target_sizes(given_rows: Ints, params: Params, path: Path) -> Ints:
    """How many of the free rows go to each split.

    Raises:
        StageError: A split would have no row, or the split column and `prepare.validation_size` contradict each other.
    """
    free = int(given_rows[TRAIN])
    if params.split_column is None:
        assert params.train_size is not None
        assert params.validation_size is not None
        train, validation = count_rows(params.train_size, free), count_rows(params.validation_size, free)
        if min(train, validation) < 1 or train + validation >= free:
            raise StageError(
                f"{path}: {free} rows are too few for prepare.train_size = {params.train_size} and "
                f"prepare.validation_size = {params.validation_size}, with at least one row left to test"
            )
        return np.array([train, validation, free - train - validation])
    column = f"{path}: prepare.split_column = {params.split_column!r}"
    for split in (TRAIN, TEST):
        if given_rows[split] == 0:
            raise StageError(f"{column}: no row is {SPLITS[split]!r}")
    if given_rows[VALIDATION]:
        if params.validation_size is not None:
            raise StageError(f"{column}: some rows are 'validation', so prepare.validation_size should be null")
        return np.array([free, 0, 0])
    if params.validation_size is None:
        raise StageError(f"{column}: no row is 'validation'; prepare.validation_size draws it from the training rows")
    validation = count_rows(params.validation_size, free)
    if not 1 <= validation < free:
        raise StageError(
            f"{column}: {free} training rows are too few for prepare.validation_size = {params.validation_size}"
        )
    return np.array([free - validation, validation, 0])


def check_strata(targets: Ints, sizes: Ints, labels: list[str], path: Path) -> None:
    """Refuse a class that is too rare for every split to have a row of it.

    Raises:
        StageError: It names the class and the split.
    """
    for label, shares in zip(labels, targets, strict=True):
        for split in np.flatnonzero((shares == 0) & (sizes > 0) & (shares.sum() > 0)):
            raise StageError(
                f"{path}: prepare.stratify = true: class {shown(label)} has {shares.sum()} rows to draw from, "
                f"too few for one in the {SPLITS[split]} split"
            )


def check_space(folder: Path, rows: int, time_steps: int, features: int) -> None:
    """Refuse to begin arrays that the disk has no room for, such as of shorter sequences padded to a slip of a length.

    Raises:
        StageError: It says how much is needed and how much is there.
    """
    needed, free = rows * time_steps * features * 4, shutil.disk_usage(folder).free
    if needed > free:
        raise StageError(
            f"{rows:,} sequences of {time_steps:,} time steps need {needed / 1e9:,.1f} GB, and the disk has "
            f"{free / 1e9:,.1f} GB free (prepare.time_steps)"
        )


def training_mean(rows: Rows, features: list[str], chunk_rows: int, path: Path) -> NDArray[np.float64]:
    """The mean of each feature over what the training split has of it.

    Raises:
        StageError: It has nothing of a feature.
    """
    moments = Moments(len(features))
    for start, stop in rows.chunks(chunk_rows, "mean"):
        train = rows.drawn.read(start, stop) == TRAIN
        moments.add(rows.steps(start, stop)[np.repeat(train, rows.lengths(start, stop))])
    for feature in moments.never():
        raise StageError(
            f"{path}: prepare.missing = 'mean': feature {shown(features[feature])} has no value in the training split"
        )
    return moments.mean


def write_splits(
    rows: Rows, writer: PreparedWriter, table: Table, time_steps: int, params: Params
) -> tuple[Moments, int]:
    """Fill in what is missing, and append every row to its split.

    Returns:
        Mean and deviation over the training split, and how many values were filled in.

    Raises:
        StageError: There is nothing to fill in a value from.
    """
    features = table.features
    chunk_rows = max(1, min(BLOCK_ROWS, CHUNK_CELLS // (time_steps * len(features))))
    fill: Any = (
        training_mean(rows, features, chunk_rows, table.path) if params.missing == "mean" else np.zeros(len(features))
    )
    moments, filled = Moments(len(features)), 0
    for start, stop in rows.chunks(chunk_rows, "write"):
        lengths, classes, drawn = rows.lengths(start, stop), rows.classes(start, stop), rows.drawn.read(start, stop)
        sequences = pad(rows.steps(start, stop), lengths, time_steps)
        holes = np.isnan(sequences)
        filled += int(holes.sum())
        if holes.any() and params.missing == "previous":
            for row, feature in fill_previous(sequences, lengths):
                raise StageError(
                    f"{table.at(rows.table_row(start + int(row)))}: prepare.missing = 'previous', but the sequence "
                    f"has no value of feature {shown(features[feature])}"
                )
        elif holes.any():
            sequences[holes] = np.broadcast_to(fill, sequences.shape)[holes]
        for code, split in enumerate(SPLITS):
            chosen = np.flatnonzero(drawn == code)
            writer.append(split, sequences[chosen], classes[chosen], lengths[chosen].astype(np.int32))
        train = drawn == TRAIN
        moments.add(sequences[train][np.arange(time_steps) < lengths[train, None]])
    return moments, filled


def prepare(path: Path, folder: Path, params: Params) -> None:
    """Write the prepared folder: read the table once into columns on disk, then deal its rows out to the splits."""
    scratch = folder.with_name(f"{folder.name}.scratch")
    scratch.mkdir()
    try:
        with ExitStack() as stack:
            table = Table(path, params)
            features = table.features
            rows = Rows(scratch, stack, len(features), long=params.layout == "long")
            labels, groups = read_rows(table, rows, params, scratch)
            shortest, longest = check_lengths(rows, params, table)
            classes = order_classes(labels, params, path)
            rows.class_of = np.array([classes.index(label) for label in labels])
            if groups and rows.given:
                check_groups(rows, groups, table)
            class_rows = draw_splits(rows, labels, groups, params, path)
            counts = dict(zip(SPLITS, class_rows.sum(axis=1).tolist(), strict=True))
            time_steps = params.time_steps or longest
            check_space(scratch, len(rows), time_steps, len(features))
            writer = PreparedWriter(folder, counts, time_steps, len(features), ragged=params.ragged)
            with writer:
                moments, filled = write_splits(rows, writer, table, time_steps, params)
            writer.finish(
                Schema(
                    features=features,
                    time_steps=time_steps,
                    classes=classes,
                    ragged=params.ragged,
                    rows=counts,
                    class_rows=dict(zip(SPLITS, class_rows.tolist(), strict=True)),
                    groups=count_groups(rows, len(groups)) if groups else None,
                    length_range=(shortest, longest),
                    filled=filled,
                    mean=moments.mean.tolist(),
                    deviation=moments.deviation.tolist(),
                )
            )
    finally:
        remove(scratch)


def main() -> None:
    """Read the arguments and the parameters; write the prepared folder."""
    args = parse_args(
        __doc__,
        inputs={"table": "a CSV or Parquet file, or a folder of Parquet files"},
        outputs={"prepared": "the folder of prepared arrays"},
    )
    params = read_params("prepare", Params)
    with replacing(args.prepared) as folder:
        prepare(args.table, folder, params)


if __name__ == "__main__":
    run(main)

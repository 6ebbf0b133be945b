"""The table, split into arrays."""

import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import prepare
from shared.data import tables
from shared.data.sequences import SPLITS, Prepared
from shared.data.splitting import deal
from tests.support import ROOT, Workspace

import numpy as np
import pandas as pd
import pytest


def table_of(workspace: Workspace) -> pd.DataFrame:
    return pd.read_csv(workspace.folder / "data" / "sequences.csv")


def prepared(workspace: Workspace) -> Prepared:
    return Prepared(workspace.folder / "data" / "prepared")


def test_every_row_is_in_one_split_with_its_label(workspace: Workspace) -> None:
    data = prepared(workspace)
    assert data.schema.rows == {"train": 200, "validation": 100, "test": 400}
    table = table_of(workspace).astype(np.float32).to_numpy()
    splits = [data.split(split) for split in SPLITS]
    rows = np.concatenate([np.hstack([arrays.sequences[:, :, 0], arrays.labels[:, None]]) for arrays in splits])
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(table, axis=0))
    assert {tuple(row) for row in rows.tolist()} == {tuple(row) for row in table.tolist()}


def test_mean_and_deviation_are_of_the_training_split(workspace: Workspace) -> None:
    data = prepared(workspace)
    sequences = data.split("train").sequences
    np.testing.assert_allclose(data.schema.mean, [sequences.mean(dtype=np.float64)])
    np.testing.assert_allclose(data.schema.deviation, [sequences.std(dtype=np.float64)])


def test_the_seed_decides_the_rows(workspace: Workspace) -> None:
    before = np.array(prepared(workspace).split("train").sequences)
    workspace.call("prepare")
    np.testing.assert_array_equal(prepared(workspace).split("train").sequences, before)
    workspace.set("prepare.seed", 1)
    workspace.call("prepare")
    assert not np.array_equal(prepared(workspace).split("train").sequences, before)


@pytest.mark.parametrize(
    ("train", "validation", "rows"),
    [(0.5, 0.25, [350, 175, 175]), (1, 1, [1, 1, 698]), (600, 0.1, [600, 70, 30])],
)
def test_a_size_is_a_count_or_a_share(workspace: Workspace, train: Any, validation: Any, rows: list[int]) -> None:
    workspace.set("prepare.train_size", train)
    workspace.set("prepare.validation_size", validation)
    workspace.call("prepare")
    assert list(prepared(workspace).schema.rows.values()) == rows


def test_stratified_splits_hold_the_classes_in_the_tables_proportions(workspace: Workspace) -> None:
    workspace.set("prepare.stratify", True)
    workspace.call("prepare")
    shares = table_of(workspace)["label"].value_counts(normalize=True).sort_index().to_numpy()
    for split in SPLITS:
        labels = prepared(workspace).split(split).labels
        np.testing.assert_allclose(np.bincount(labels) / len(labels), shares, atol=1.01 / len(labels))


# --- a table of one's own ---

PARAMS = {"train_size": 1, "validation_size": 1}
LONG = {"layout": "long", "id_column": "id", "time_column": "time"}

# Sequences of 3, 1 and 2 steps with two features; the last column is in wide order.
LONG_CSV = """id,time,ax,az,label
a,0,1,10,walk
a,1,2,20,walk
a,2,3,30,walk
b,5,4,40,sit
c,0,5,50,walk
c,0.5,6,60,walk
"""
WIDE_CSV = """ax.0,az.0,ax.1,az.1,ax.2,az.2,label
1,10,2,20,3,30,walk
4,40,,,,,sit
5,50,6,60,,,walk
"""
STEPS = [[[1, 10], [2, 20], [3, 30]], [[4, 40], [0, 0], [0, 0]], [[5, 50], [6, 60], [0, 0]]]


def prepare_table(workspace: Workspace, content: str | pd.DataFrame, params: dict[str, Any]) -> Prepared:
    """Prepare a table with these parameters; a frame is written as Parquet."""
    for key, value in (PARAMS | params).items():
        workspace.set(f"prepare.{key}", value)
    file = workspace.folder / ("table.csv" if isinstance(content, str) else "table.parquet")
    if isinstance(content, str):
        file.write_text(content)
    else:
        content.to_parquet(file, index=False)
    workspace.call("prepare", file.name, "prepared")
    return Prepared(workspace.folder / "prepared")


def all_rows(data: Prepared) -> list[tuple[Any, ...]]:
    """Sequence, class and length of every row of every split, in an order of their own."""
    found = []
    for split in SPLITS:
        arrays = data.split(split)
        lengths = arrays.lengths if arrays.lengths is not None else [data.schema.time_steps] * len(arrays.labels)
        for sequence, label, length in zip(arrays.sequences.tolist(), arrays.labels, lengths, strict=True):
            found.append((sequence, data.schema.classes[label], int(length)))
    return sorted(found)


def long_frame(**columns: Any) -> pd.DataFrame:
    return pd.read_csv(StringIO(LONG_CSV)).assign(**columns)


@pytest.mark.parametrize(
    ("content", "params"),
    [
        (LONG_CSV, LONG),
        (long_frame(), LONG),
        (long_frame(ax=np.arange(1, 7, dtype=np.float32), id=pd.Categorical(list("aaabcc"))), LONG),
        (long_frame(ax=pd.Categorical(list("123456"))), LONG),
        (long_frame(id=[7, 7, 7, 9, 8, 8], time=pd.date_range("2024-02-28", periods=6)), LONG),
        (long_frame(time=[f"2024-02-28T10:00:0{second}.5Z" for second in range(6)]).to_csv(index=False), LONG),
        (long_frame(hour=3, note="x"), LONG | {"features": ["ax", "az"]}),
        (WIDE_CSV, {}),
        (pd.read_csv(StringIO(WIDE_CSV)), {}),
        ("label,ax.0,az.0,ax.1,az.1,ax.2,az.2\nwalk,1,10,2,20,3,30\nsit,4,40\nwalk,5,50,6,60\n", {}),
        (WIDE_CSV.replace(".", "_"), {"label_column": -1}),
        (WIDE_CSV.replace(".", ""), {"label_column": 6}),
        (WIDE_CSV.replace("ax", "ax.0"), {}),
    ],
    ids=[
        "long CSV", "long Parquet", "float32 and categories", "categories of numbers as text", "numbers and dates",
        "times as text", "features chosen",
        "wide CSV", "wide Parquet", "short lines", "underscores and the last column", "no separator and column 6",
        "a feature with a number in its name",
    ],
)  # fmt: skip
def test_ragged_sequences_of_several_features(
    empty_workspace: Workspace, content: str | pd.DataFrame, params: dict[str, Any]
) -> None:
    data = prepare_table(empty_workspace, content, {"ragged": True} | params)
    assert all_rows(data) == list(zip(STEPS, ["walk", "sit", "walk"], [3, 1, 2], strict=True))
    assert data.schema.features[0] in ("ax", "ax.0")
    assert data.schema.features[1] == "az"
    assert data.schema.classes == ["sit", "walk"]
    assert (data.schema.time_steps, data.schema.length_range, data.schema.filled) == (3, (1, 3), 0)
    arrays = data.split("train")
    assert arrays.lengths is not None
    steps = arrays.sequences[np.arange(3) < arrays.lengths[:, None]]
    np.testing.assert_allclose(data.schema.mean, steps.mean(axis=0))
    np.testing.assert_allclose(data.schema.deviation, steps.std(axis=0))


@pytest.mark.parametrize("params", [LONG, {"layout": "wide"}], ids=["long", "wide"])
def test_features_stand_in_the_order_asked_for_and_time_can_be_longer(
    empty_workspace: Workspace, params: dict[str, Any]
) -> None:
    content = LONG_CSV if params is LONG else WIDE_CSV
    wanted = {"features": ["az", "ax"], "time_steps": 4, "ragged": True}
    data = prepare_table(empty_workspace, content, params | wanted)
    assert data.schema.features == ["az", "ax"]
    assert [row[0] for row in all_rows(data)] == [
        [*([az, ax] for ax, az in sequence), [0, 0]] for sequence in STEPS
    ]  # fmt: skip


def test_sequences_of_one_length_carry_no_lengths(empty_workspace: Workspace) -> None:
    data = prepare_table(empty_workspace, "x0,x1,label\n1,2,a\n3,4,b\n5,6,b\n", {})
    assert not data.schema.ragged
    assert data.split("train").lengths is None
    assert not list(data.folder.glob("*_lengths.npy"))


@pytest.mark.parametrize(
    ("labels", "wanted", "classes"),
    [
        ([10, 9, 2], None, ["2", "9", "10"]),
        ([0.5, -1.0, 2.0], None, ["-1.0", "0.5", "2.0"]),
        (["10", "b", "9"], None, ["10", "9", "b"]),
        (["10", "nan", "9"], None, ["10", "9", "nan"]),
        (["NA", "None", "walking"], None, ["NA", "None", "walking"]),
        ([2, 0, 1], [1, 2, 0], ["1", "2", "0"]),
        (["b", "a", "b"], ["c", "b", "a"], ["c", "b", "a"]),
        ([True, False, True], None, ["False", "True"]),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_classes_are_those_found_or_those_asked_for(
    empty_workspace: Workspace, kind: str, labels: list[Any], wanted: Any, classes: list[str]
) -> None:
    frame = pd.DataFrame({"x0": [0, 1, 2], "label": labels})
    content = frame.to_csv(index=False) if kind == "csv" else frame
    data = prepare_table(empty_workspace, content, {"classes": wanted})
    assert data.schema.classes == classes
    assert [row[1] for row in all_rows(data)] == [str(label) for label in labels]


# --- the splits ---


def grouped_table(groups: list[int]) -> pd.DataFrame:
    """Groups of these sizes, their rows mixed; the value is the row."""
    people = np.random.default_rng(0).permutation(np.repeat(np.arange(len(groups)), groups))
    return pd.DataFrame({"x0": np.arange(len(people)), "who": people, "label": people % 2})


def splits_of(data: Prepared, table: pd.DataFrame) -> pd.Series:
    """The split of each row of a table whose value is the row."""
    found = pd.Series(index=table.index, dtype=object)
    for split in SPLITS:
        found.iloc[data.split(split).sequences[:, 0, 0].astype(int)] = split
    assert found.notna().all()
    return found


def test_no_group_lies_in_two_splits_and_sizes_come_near(empty_workspace: Workspace) -> None:
    table = grouped_table(list(range(1, 40)))
    params = {"group_column": "who", "train_size": 0.6, "validation_size": 0.2}
    data = prepare_table(empty_workspace, table, params)
    assert splits_of(data, table).groupby(table["who"]).nunique().max() == 1
    found = splits_of(data, table).groupby(table["who"]).first().value_counts()
    assert data.schema.groups == {split: found[split] for split in SPLITS}
    rows = np.array(list(data.schema.rows.values()))
    np.testing.assert_allclose(rows, [468, 156, 156], atol=5)
    other = prepare_table(empty_workspace, grouped_table([20] * 39), params | {"seed": 3})
    assert list(other.schema.rows.values()) == [460, 160, 160]


def test_three_groups_are_enough_for_three_splits_however_large(empty_workspace: Workspace) -> None:
    params = {"group_column": "who", "train_size": 0.98, "validation_size": 0.01}
    data = prepare_table(empty_workspace, grouped_table([30, 30, 40]), params)
    assert sorted(data.schema.rows.values()) == [30, 30, 40]


@pytest.mark.parametrize("group", [None, "who"])
def test_a_split_column_is_followed_and_a_missing_validation_split_is_drawn_from_train(
    empty_workspace: Workspace, group: str | None
) -> None:
    table = grouped_table([10] * 20)
    table["part"] = np.where(table["who"] < 12, "train", "test")
    params = {
        "split_column": "part",
        "group_column": group,
        "features": ["x"],
        "train_size": None,
        "validation_size": 0.25,
    }
    data = prepare_table(empty_workspace, table, params)
    found = splits_of(data, table)
    assert list(data.schema.rows.values()) == [90, 30, 80]
    assert ((found == "test") == (table["part"] == "test")).all()
    if group:
        assert found.groupby(table["who"]).nunique().max() == 1


def test_a_split_column_that_names_all_three_is_followed(empty_workspace: Workspace) -> None:
    table = grouped_table([10] * 3)
    table["part"] = np.array(SPLITS, dtype=object)[table["who"]]
    params = {"split_column": "part", "group_column": "who", "train_size": None, "validation_size": None}
    assert (splits_of(prepare_table(empty_workspace, table, params), table) == table["part"]).all()


@pytest.mark.parametrize("sizes", [(0.5, 0.25), (1, 1), (37, 200)])
def test_sizes_are_exact_over_many_blocks_and_in_proportion_when_stratified(
    empty_workspace: Workspace, sizes: tuple[float, float]
) -> None:
    empty_workspace.patch.setattr(prepare, "BLOCK_ROWS", 16)
    labels = np.sort(np.random.default_rng(0).choice(3, 600, p=[0.6, 0.3, 0.1]))
    table = pd.DataFrame({"x0": range(600), "label": labels})
    params = {"train_size": sizes[0], "validation_size": sizes[1]}
    data = prepare_table(empty_workspace, table, params)
    train, validation = (size if isinstance(size, int) else round(600 * size) for size in sizes)
    expected = {"train": train, "validation": validation, "test": 600 - train - validation}
    assert data.schema.rows == expected
    splits_of(data, table)
    if train > 1:
        stratified = prepare_table(empty_workspace, table, params | {"stratify": True})
        assert stratified.schema.rows == expected
        for split in SPLITS:
            share = np.array(stratified.schema.class_rows[split]) / expected[split]
            np.testing.assert_allclose(share, np.bincount(labels) / 600, atol=1.01 / expected[split])


def test_every_row_is_as_likely_in_every_split_wherever_it_stands() -> None:
    counts = np.zeros((3, 40))
    for seed in range(3000):
        rng, left = np.random.default_rng(seed), np.array([[20, 8, 12]])
        drawn = np.concatenate([deal(np.zeros(size, np.int64), left, rng) for size in (10, 30)])
        assert (left == 0).all()
        counts[drawn, np.arange(40)] += 1
    np.testing.assert_allclose(counts / 3000, np.broadcast_to([[0.5], [0.2], [0.3]], (3, 40)), atol=0.04)


# --- missing values ---

HOLES = """x.0,y.0,x.1,y.1,x.2,y.2,label
1,,,3,5,6,a
,2,4,,,,b
,7,8,9,,,b
"""


@pytest.mark.parametrize(
    ("missing", "expected", "filled"),
    [
        ("zero", [[[1, 0], [0, 3], [5, 6]], [[0, 2], [4, 0], [0, 0]], [[0, 7], [8, 9], [0, 0]]], 5),
        ("previous", [[[1, 3], [1, 3], [5, 6]], [[4, 2], [4, 2], [0, 0]], [[8, 7], [8, 9], [0, 0]]], 5),
    ],
)
def test_missing_values_are_filled_within_the_sequence(
    empty_workspace: Workspace, missing: str, expected: list[Any], filled: int
) -> None:
    data = prepare_table(empty_workspace, HOLES, {"missing": missing, "ragged": True})
    assert [row[0] for row in sorted(all_rows(data), key=lambda row: row[0][-1][-1] == 0)] == sorted(
        expected, key=lambda sequence: (sequence[-1][-1] == 0, sequence)
    )
    assert data.schema.filled == filled


def test_the_mean_that_fills_is_that_of_the_training_split(empty_workspace: Workspace) -> None:
    table = grouped_table([25] * 4).astype({"x0": float}).assign(x1=lambda frame: frame["x0"] % 7)
    table.loc[::3, "x1"] = np.nan
    table["part"] = np.where(table.index < 70, "train", "test")
    params = {"split_column": "part", "features": ["x"], "missing": "mean", "train_size": None}
    data = prepare_table(empty_workspace, table, params)
    arrays = data.split("train")
    known = table.loc[arrays.sequences[:, 0, 0].astype(int), ["x0", "x1"]].to_numpy()
    mean = np.nanmean(known)
    for split in SPLITS:
        sequences = data.split(split).sequences[:, :, 0]
        filled = table["x1"].isna().to_numpy()[sequences[:, 0].astype(int)]
        np.testing.assert_allclose(sequences[filled, 1], mean, rtol=1e-6)
    np.testing.assert_allclose(data.schema.mean, mean, rtol=1e-6)
    assert data.schema.filled == table["x1"].isna().sum()


# --- chunks ---


def test_chunks_change_neither_arrays_nor_the_row_that_an_error_names(workspace: Workspace) -> None:
    before = workspace.files()
    workspace.patch.setattr(tables, "CHUNK_ROWS", 64)
    workspace.patch.setattr(prepare, "CHUNK_CELLS", 64)
    workspace.call("prepare")
    after = workspace.files()
    assert {name for name in after if after[name] != before[name]} <= {"data/prepared/schema.json"}
    table = workspace.folder / "data" / "sequences.csv"
    table.write_text(table.read_text() + "1,2,3,4,5,six,0\n")
    assert workspace.refuses("prepare").startswith("data/sequences.csv, row 701, column 'x5': found 'six'")


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_long_sequence_may_lie_in_several_chunks(empty_workspace: Workspace, rows: int) -> None:
    empty_workspace.patch.setattr(tables, "CHUNK_ROWS", rows)
    data = prepare_table(empty_workspace, LONG_CSV, LONG | {"ragged": True, "group_column": None})
    assert all_rows(data) == list(zip(STEPS, ["walk", "sit", "walk"], [3, 1, 2], strict=True))


def test_equal_hashes_of_different_ids_are_no_error(empty_workspace: Workspace) -> None:
    empty_workspace.patch.setattr(tables, "hash_names", lambda ids: np.zeros(len(ids.codes), np.uint64))
    empty_workspace.patch.setattr(tables, "HASHES_AT_ONCE", 2)
    assert len(all_rows(prepare_table(empty_workspace, LONG_CSV, LONG | {"ragged": True}))) == 3


# What is resident in a process counts in those that it starts, and this one holds every library: so a small one starts
# the stage.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_more_rows_take_no_more_memory(empty_workspace: Workspace) -> None:
    def peak(stage: str, *paths: str) -> int:
        command = [sys.executable, "-c", PEAK, sys.executable, str(ROOT / "stages" / f"{stage}.py"), *paths]
        return int(subprocess.run(command, cwd=empty_workspace.folder, capture_output=True, check=True).stdout)

    peaks = []
    for rows in (200_000, 1_000_000):
        empty_workspace.set("generate.rows", rows)
        peaks.append((peak("generate", "table.parquet"), peak("prepare", "table.parquet", "prepared")))
    for few, many in zip(*peaks, strict=True):
        assert many < 1.15 * few


def in_parts(table: pd.DataFrame, folder: Path, *borders: int) -> Path:
    """The table as a folder, as Spark writes it."""
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    for number, (start, stop) in enumerate(pairwise([0, *borders, len(table)])):
        table.iloc[start:stop].to_parquet(folder / f"part-{number:05}.parquet", index=False)
    return folder


def test_a_folder_of_parquet_gives_the_same_arrays_as_one_file(workspace: Workspace) -> None:
    """Also where a file has no rows, or its columns in another order."""
    data, table = workspace.folder / "data", table_of(workspace)
    folder = in_parts(table, data / "sequences.parquet", 100, 100, 650)
    table.iloc[650:][table.columns[::-1]].to_parquet(folder / "part-00003.parquet", index=False)
    workspace.call("prepare", "data/sequences.parquet", "data/from_parts")
    for file in (data / "prepared").iterdir():
        assert (data / "from_parts" / file.name).read_bytes() == file.read_bytes()


def test_a_sequence_may_go_on_in_the_next_file(empty_workspace: Workspace) -> None:
    table = pd.DataFrame(
        {"id": np.repeat([7, 5, 6, 4], 3), "t": [0, 1, 2] * 4, "label": np.repeat(["a", "b"], 6), "v": np.arange(12.0)}
    )
    long = {"layout": "long", "id_column": "id", "time_column": "t", "train_size": 1, "validation_size": 1}
    for key, value in long.items():
        empty_workspace.set(f"prepare.{key}", value)
    in_parts(table, empty_workspace.folder / "parts", 4, 8)
    table.to_parquet(empty_workspace.folder / "whole.parquet")
    for source in ("parts", "whole.parquet"):
        empty_workspace.call("prepare", source, f"from_{source}")
    for file in (empty_workspace.folder / "from_parts").iterdir():
        assert file.read_bytes() == (empty_workspace.folder / "from_whole.parquet" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda part: part.assign(x2=np.inf), ", row 1, column 'x2': found inf; expected a finite number"),
        (lambda part: part.assign(label=["0"] * 59 + [""]), ", row 60, column 'label': found no value; every sequence"),
        (lambda part: part.drop(columns="x2"), ": lacks x2, which part-00000.parquet has"),
        (lambda part: part.assign(x6=1.0), ": has x6, which part-00000.parquet lacks"),
    ],
)
def test_an_error_in_a_folder_names_the_file_and_its_row(
    workspace: Workspace, change: Callable[[pd.DataFrame], pd.DataFrame], error: str
) -> None:
    table = table_of(workspace).astype({"label": str})
    folder = in_parts(table, workspace.folder / "parts", 590, 640)
    change(table.iloc[640:]).to_parquet(folder / "part-00002.parquet", index=False)
    assert workspace.refuses("prepare", "parts", "prepared").startswith(f"parts/part-00002.parquet{error}")


def test_a_folder_that_is_no_table(workspace: Workspace) -> None:
    folder = in_parts(table_of(workspace), workspace.folder / "parts", 350)
    (folder / "part-00001.parquet").write_bytes(b"PAR1")
    assert workspace.refuses("prepare", "parts", "prepared").startswith(
        "parts/part-00001.parquet: not a readable table: "
    )
    (folder / "notes.txt").touch()
    assert workspace.refuses("prepare", "parts", "prepared") == (
        "parts/notes.txt: the folder of a table should hold .parquet files and nothing else"
    )
    (workspace.folder / "none").mkdir()
    assert workspace.refuses("prepare", "none", "prepared") == "none: no .parquet file in this folder"

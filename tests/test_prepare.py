"""The table, split into arrays."""

from pathlib import Path
from typing import Any

import prepare
from shared.sequences import SPLITS, Prepared
from tests.support import Workspace

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


def write(folder: Path, text: str) -> None:
    (folder / "data" / "sequences.csv").write_text(text)


def small_splits(workspace: Workspace, classes: list[Any]) -> None:
    for key, value in {"train_size": 1, "validation_size": 1, "classes": classes}.items():
        workspace.set(f"prepare.{key}", value)


def test_several_features_become_the_last_axis_whatever_the_columns_order(workspace: Workspace) -> None:
    small_splits(workspace, ["on", "off"])
    rows = [f"{10 * row + 1},{10 * row + 3},{10 * row + 2},on,{10 * row + 4}" for row in range(3)]
    write(workspace.folder, "\n".join(["x_0,y_0,x_1,label,y_1", *rows, ""]))
    workspace.call("prepare")
    data = prepared(workspace)
    assert (data.schema.features, data.schema.time_steps, data.schema.classes) == (["x", "y"], 2, ["on", "off"])
    for split in SPLITS:
        [[[x0, y0], [x1, y1]]] = data.split(split).sequences.tolist()
        assert [x1 - x0, y0 - x0, y1 - x0] == [1, 2, 3]


def test_labels_follow_the_order_of_the_classes_even_if_one_reads_as_nothing(workspace: Workspace) -> None:
    small_splits(workspace, ["NA", "None", "walking"])
    write(workspace.folder, "value_0,label\n0,NA\n1,None\n2,walking\n")
    workspace.call("prepare")
    for split in SPLITS:
        arrays = prepared(workspace).split(split)
        sequences, labels = arrays.sequences, arrays.labels
        assert sequences[0, 0, 0] == labels[0]


def test_chunks_change_neither_arrays_nor_the_row_that_an_error_names(workspace: Workspace) -> None:
    before = workspace.files()
    workspace.patch.setattr(prepare, "CHUNK_ROWS", 64)
    workspace.call("prepare")
    after = workspace.files()
    assert {name for name in after if after[name] != before[name]} <= {"data/prepared/schema.json"}
    table = workspace.folder / "data" / "sequences.csv"
    table.write_text(table.read_text() + "1,2,3,4,5,six,0\n")
    assert workspace.refuses("prepare").startswith("data/sequences.csv, row 701, column 'value_5': found 'six'")

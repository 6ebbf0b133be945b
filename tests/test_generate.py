"""The tutorial's table."""

import shutil

import generate
from tests.support import Workspace

import numpy as np
import pandas as pd


def test_the_class_is_the_sum_over_20_of_the_numbers_as_they_are_written(workspace: Workspace) -> None:
    table = pd.read_csv(workspace.folder / "data" / "sequences.csv")
    assert list(table.columns) == [*(f"x{step}" for step in range(6)), "label"]
    assert len(table) == 700
    values = table.drop(columns="label").to_numpy()
    assert values.min() >= 0
    assert values.max() < 10
    assert set(table["label"]) == {0, 1, 2}
    np.testing.assert_array_equal(table["label"], (values.sum(axis=1) / 20).astype(int))


def test_the_numbers_are_uniform() -> None:
    values = generate.generate(20_000, np.random.default_rng(0)).to_pandas().drop(columns="label").to_numpy()
    counts, _ = np.histogram(values, bins=10, range=(0, 10))
    np.testing.assert_allclose(counts / values.size, 0.1, rtol=0.05)


def test_a_seed_is_one_table_whatever_the_size_of_the_chunks(workspace: Workspace) -> None:
    table = workspace.folder / "data" / "sequences.csv"
    before = table.read_bytes()
    workspace.patch.setattr(generate, "CHUNK_ROWS", 64)
    workspace.call("generate")
    assert table.read_bytes() == before
    workspace.set("generate.seed", 1)
    workspace.call("generate")
    assert table.read_bytes() != before


def test_the_output_s_folder_is_made(workspace: Workspace) -> None:
    shutil.rmtree(workspace.folder / "data")
    workspace.call("generate")
    assert [path.name for path in (workspace.folder / "data").iterdir()] == ["sequences.csv"]


def test_parquet_holds_the_same_table_and_has_equal_bytes_each_time(workspace: Workspace) -> None:
    data = workspace.folder / "data"
    for name in ("a.parquet", "b.parquet"):
        workspace.call("generate", f"data/{name}")
    assert (data / "a.parquet").read_bytes() == (data / "b.parquet").read_bytes()
    table = pd.read_parquet(data / "a.parquet")
    assert [str(dtype) for dtype in table.dtypes] == ["float32"] * 6 + ["int64"]
    pd.testing.assert_frame_equal(table, pd.read_csv(data / "sequences.csv").astype(table.dtypes.to_dict()))


def test_another_ending_is_refused(workspace: Workspace) -> None:
    assert workspace.refuses("generate", "data/table.json") == "data/table.json: a table should be .csv or .parquet"

"""A team's own table takes the two edits that the README shows."""

from collections.abc import Callable

from shared.data.sequences import Prepared
from tests.support import Project

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

# Three activities of six people, 30 recordings each, of 20 to 40 steps with three features; a row is a time step.
PREPARE = {
    "layout": "long",
    "label_column": "activity",
    "id_column": "recording",
    "time_column": "seconds",
    "group_column": "person",
    "ragged": True,
    "train_size": 0.5,
    "validation_size": 0.2,
}


def own_table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    recordings = []
    for number in range(180):
        activity, steps = ("lie", "sit", "walk")[number % 3], rng.integers(20, 41)
        recording = pd.DataFrame(rng.normal(number % 3, 1, (steps, 3)).astype(np.float32), columns=["ax", "ay", "az"])
        recordings.append(
            recording.assign(
                recording=f"r{number}", seconds=np.arange(steps) / 50, person=f"p{number % 6}", activity=activity
            )
        )
    return pd.concat(recordings)


def test_the_two_edits_bring_a_table_of_one_s_own(make_project: Callable[[str], Project]) -> None:
    project = make_project("own")
    own_table().to_parquet(project.folder / "data" / "sequences.parquet", index=False)
    yaml = YAML()

    # dvc.yaml, and its section in params.yaml: no stage `generate`, and Parquet instead of CSV
    pipeline, params = (yaml.load(project.folder / name) for name in ("dvc.yaml", "params.yaml"))
    del pipeline["stages"]["generate"], params["generate"]
    yaml.dump(pipeline, project.folder / "dvc.yaml")
    text = (project.folder / "dvc.yaml").read_text()
    (project.folder / "dvc.yaml").write_text(text.replace("data/sequences.csv", "data/sequences.parquet"))

    # params.yaml: what the table's columns are
    params["prepare"] |= PREPARE
    yaml.dump(params, project.folder / "params.yaml")

    project.dvc("add", "data/sequences.parquet")
    assert project.repro("prepare") == ["prepare"]
    assert project.repro("prepare") == []

    assert "data/sequences.parquet.dvc" in project.git("status", "--short", "--untracked-files=all")
    schema = Prepared(project.folder / "data" / "prepared").schema
    assert (schema.features, schema.classes, schema.ragged) == (["ax", "ay", "az"], ["lie", "sit", "walk"], True)
    assert schema.length_range == (20, 40)
    assert schema.rows == {"train": 90, "validation": 30, "test": 60}

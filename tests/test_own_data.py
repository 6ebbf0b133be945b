"""A team's own table: docs/data.md, typed as it stands there, ends with files to ship."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from shared.data.sequences import Prepared
from tests.support import ROOT, Project, read_yaml, stages_that_ran

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

GUIDE = (ROOT / "docs" / "data.md").read_text()
PEOPLE, RECORDINGS = 24, 700
ACTIVITIES = {"lie": (0.0, 0.05), "sit": (0.0, 0.12), "walk": (1.8, 0.6), "run": (2.9, 1.4)}
"""Strides a second, and how strongly the body moves."""


def own_table() -> pd.DataFrame:
    """Recordings of an accelerometer at 20 Hz, 20 to 60 steps long; each person wears and moves it differently."""
    rng = np.random.default_rng(0)
    pace, strength, tilt = (rng.normal(mean, spread, PEOPLE) for mean, spread in ((1, 0.1), (1, 0.25), (0, 0.35)))
    recordings = []
    for number in range(RECORDINGS):
        person, activity = int(rng.integers(PEOPLE)), str(rng.choice(list(ACTIVITIES), p=[0.2, 0.3, 0.35, 0.15]))
        strides, moves = ACTIVITIES[activity]
        seconds = np.arange(rng.integers(20, 61)) / 20
        stride = 2 * np.pi * (strides * pace[person] * seconds + rng.random())
        lean = tilt[person] + (1.2 if activity == "lie" else 0.0) + rng.normal(0, 0.25)
        motion = moves * strength[person] * np.stack([np.sin(stride), np.sin(2 * stride), np.cos(stride)])
        values = 9.81 * np.array([[np.sin(lean)], [np.cos(lean)], [0.1]]) + 3 * motion
        values += rng.normal(0, 0.6, values.shape)
        recording = pd.DataFrame(values.T.astype(np.float32), columns=["ax", "ay", "az"])
        recordings.append(
            recording.assign(recording=f"r{number}", seconds=seconds, person=f"person {person}", activity=activity)
        )
    return pd.concat(recordings)


def typed(language: str) -> list[str]:
    """The blocks of the guide in one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)


def edit_params(folder: Path, values: str) -> None:
    """What the guide has a person do to params.yaml."""
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    del params["generate"]
    for section, keys in read_yaml(values).items():
        assert set(keys) <= set(params[section])
        params[section] |= keys
    yaml.dump(params, folder / "params.yaml")


def test_the_guide_to_an_own_table_typed_as_it_stands_ends_with_files_to_ship(
    make_project: Callable[[str], Project],
) -> None:
    project = make_project("own")
    project.git("config", "user.name", "test")
    project.git("config", "user.email", "test@example.com")
    table = own_table()
    assert (table["person"].nunique(), table["recording"].nunique()) == (PEOPLE, RECORDINGS)
    table.to_parquet(project.folder / "data" / "sequences.parquet", index=False)
    bring, run = typed("sh")
    [columns] = typed("yaml")

    project.run("bash", "-euc", bring)
    edit_params(project.folder, columns)
    printed = project.run("bash", "-euc", run)

    ran = stages_that_ran(printed)
    assert ran[0] == "prepare"
    assert ran[-1] == "accept"
    schema = Prepared(project.folder / "data" / "prepared").schema
    assert (schema.features, schema.classes) == (["ax", "ay", "az"], ["lie", "run", "sit", "walk"])
    assert schema.ragged
    assert schema.length_range == (20, 60)
    assert sum(schema.rows.values()) == RECORDINGS
    verified = json.loads((project.folder / "metrics" / "verify.json").read_text())
    exported = {(name, variant) for name, variants in verified.items() for variant in variants} - {("pytorch", "fp32")}
    assert {("onnx", "int8"), ("coreml", "fp16"), ("coreml", "palette6")} <= exported
    assert all(verified[name][variant]["passed"] for name, variant in exported)
    evaluated = json.loads((project.folder / "metrics" / "evaluate.json").read_text())["pytorch"]["fp32"]
    assert evaluated["accuracy"] > evaluated["majority_accuracy"] + 0.3
    summary = (project.folder / "metrics" / "report.md").read_text()
    assert "**classifier-" in summary
    assert "no file qualifies" not in summary

    # Committed and pushed, it is another's, table and all.
    project.commit()
    project.dvc("push")
    clone = Project(project.folder.parent / "clone")
    project.git("clone", "--quiet", ".", str(clone.folder))
    clone.dvc("pull")
    assert clone.repro() == []
    assert pd.read_parquet(clone.folder / "data" / "sequences.parquet").equals(table.reset_index(drop=True))

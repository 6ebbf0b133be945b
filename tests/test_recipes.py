"""The parameter sets that `dvc exp run` takes from a file: the real thing, up to the proof of every file."""

import json
from pathlib import Path

from tests.support import ROOT, copy_repository, read_yaml

import pytest

FEWER = ["-S", "generate.rows=1500", "-S", "prepare.train_size=400", "-S", "prepare.validation_size=100"]
"""Rows: whether every file computes what PyTorch does depends on no number of them; each recipe keeps its options."""

RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.args") if path.stem != "own")  # see test_own_data.py
COMMITTED = read_yaml((ROOT / "params.yaml").read_text())["architecture"]["name"]


def test_the_architectures_that_the_parameters_do_not_choose_have_one() -> None:
    """Those of this project: a net of one's own needs none."""
    assert {"cnn", "gru", "mlp", "transformer"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_file_is_verified(tmp_path: Path, recipe: Path) -> None:
    project = copy_repository(tmp_path / "project", {})
    project.dvc("exp", "run", "verify", *recipe.read_text().split(), *FEWER)
    params = read_yaml((project.folder / "params.yaml").read_text())
    assert params["architecture"]["name"] == (COMMITTED if recipe.stem == "accurate" else recipe.stem)
    verified = json.loads((project.folder / "metrics" / "verify.json").read_bytes())
    found = {file_format: set(figures) for file_format, figures in verified.items()}
    assert found == {
        "pytorch": {"fp32"},
        "onnx": {"fp32", *params["compress_onnx"]["variants"]},
        "coreml": {"fp32", "fp16", *params["compress_coreml"]["variants"]},
    }
    assert all(figure["passed"] for figures in verified.values() for figure in figures.values())

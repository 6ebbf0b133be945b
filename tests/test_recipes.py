"""The parameter sets that `dvc exp run` takes from a file: every stage, up to the proof of every file.

DVC itself reads them into params.yaml; that it runs one from the command line is in `test_own_data.py`.
"""

import json
from pathlib import Path

from tests.support import ROOT, call_stages, commands, read_yaml, write_params

import pytest
from dvc.utils.hydra import apply_overrides

FEWER = ["generate.rows=1500", "prepare.train_size=400", "prepare.validation_size=100", "train.threads=1"]
"""Rows and threads: whether every file computes what PyTorch does depends on neither; all else is the recipe's own."""

RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.args") if path.stem != "own")  # see test_own_data.py
COMMITTED = read_yaml((ROOT / "params.yaml").read_text())["architecture"]["name"]


def test_the_architectures_that_the_parameters_do_not_choose_have_one() -> None:
    """Those of this project: a net of one's own needs none."""
    assert {"cnn", "gru", "mlp", "transformer"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_file_is_verified(tmp_path: Path, recipe: Path) -> None:
    write_params(tmp_path)
    options = recipe.read_text().split()
    assert set(options[::2]) == {"-S"}
    apply_overrides(tmp_path / "params.yaml", [*options[1::2], *FEWER])
    stages = list(commands(tmp_path))
    call_stages(tmp_path, stages[: stages.index("verify") + 1])
    params = read_yaml((tmp_path / "params.yaml").read_text())
    assert params["architecture"]["name"] == (COMMITTED if recipe.stem == "accurate" else recipe.stem)
    verified = json.loads((tmp_path / "metrics" / "verify.json").read_bytes())
    found = {file_format: set(figures) for file_format, figures in verified.items()}
    assert found == {
        "pytorch": {"fp32"},
        "onnx": {"fp32", *params["compress_onnx"]["variants"]},
        "coreml": {"fp32", "fp16", *params["compress_coreml"]["variants"]},
    }
    assert all(figure["passed"] for figures in verified.values() for figure in figures.values())

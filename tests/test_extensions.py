"""What a team changes in a clone of its own breaks no test: its table, its net, its parameters."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support import clean_environment, copy_sources, run_git

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

TCN = '''"""Dilated convolutions over time."""

from shared.network.architectures.base import Architecture, Sizes, mean_over_time, within
from shared.kit.params import Count, StageParams

from torch import Tensor, nn


class TemporalConvolutions(Architecture, name="tcn"):
    """Convolutions whose dilation doubles from layer to layer, and the mean over time."""

    class Options(StageParams):
        """Its options."""

        channels: Count
        layers: Count

    def __init__(self, sizes: Sizes, options: Options) -> None:
        super().__init__(sizes, options)
        channels = [sizes.features, *([options.channels] * options.layers)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, 3, padding=2**layer, dilation=2**layer)
            for layer, (before, after) in enumerate(zip(channels[:-1], channels[1:], strict=True))
        )
        self.output = nn.Linear(options.channels, sizes.classes)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        """See `Architecture`."""
        values = sequence.transpose(1, 2)
        for convolution in self.convolutions:
            values = convolution(values).relu()
            if lengths is not None:
                values = values * within(sequence.shape[1], lengths).unsqueeze(1)
        return self.output(mean_over_time(values, lengths, time_axis=2))
'''

PREPARE = {
    "layout": "long",
    "label_column": "activity",
    "id_column": "recording",
    "time_column": "seconds",
    "ragged": True,
    "train_size": 0.5,
    "validation_size": 0.2,
}


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with an own table instead of the tutorial's, an own architecture, and other variants and parameters."""
    folder = tmp_path_factory.mktemp("extended") / "clone"
    copy_sources(folder)
    yaml = YAML()
    pipeline, params = (yaml.load(folder / name) for name in ("dvc.yaml", "params.yaml"))
    for content in (pipeline["stages"], params):
        content.pop("generate", None)
    yaml.dump(pipeline, folder / "dvc.yaml")
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(text.replace("data/sequences.csv", "data/sequences.parquet"))

    params["prepare"] |= PREPARE
    params["architecture"] |= {"name": "tcn", "tcn": {"channels": 8, "layers": 2}}
    params["train"] |= {"standardize": True, "batch_size": 16, "epochs": 7}
    params["compress_onnx"]["variants"] = ["int8_weights"]
    params["compress_coreml"]["variants"] = ["palette2"]
    yaml.dump(params, folder / "params.yaml")
    (folder / "stages" / "shared" / "network" / "architectures" / "tcn.py").write_text(TCN)

    steps = np.arange(12) / 50
    recordings = [
        pd.DataFrame({"ax": steps * number, "recording": number, "seconds": steps, "activity": "run"})
        for number in range(4)
    ]
    pd.concat(recordings).to_parquet(folder / "data" / "sequences.parquet", index=False)
    run_git(folder, "init", "--quiet")
    run_git(folder, "add", "--all")
    run_git(folder, "commit", "--quiet", "--message", "own data, own net")
    return folder


def test_an_own_table_and_an_own_net_break_no_test(extended: Path) -> None:
    """The contract, tests that run every stage on data of their own, and the tests that the net gets by being there."""
    files = ["tests/test_contract.py", "tests/test_generate.py", "tests/shared/network/test_architectures.py"]
    chosen = "test_contract or test_generate or tcn"
    command = [sys.executable, "-m", "pytest", "-x", "--tb=short", "-p", "no:cacheprovider", "-k", chosen, *files]
    ran = subprocess.run(command, cwd=extended, env=clean_environment(), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:]
    for file in files:
        assert re.search(rf"^{file} \.+", ran.stdout, flags=re.MULTILINE), ran.stdout

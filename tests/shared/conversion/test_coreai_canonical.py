"""Equal nets give Core AI assets of equal bytes, which Apple's runtime still runs."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from shared.conversion.coreai_canonical import canonicalize, rename
from tests.support import ROOT, clean_environment

import numpy as np
import pytest

pytest.importorskip("coreai_torch", reason="coreai-torch is not installed")

from tests.core_ai_assets import run

EXPORT = '''
"""Writes one asset: what normalisation, attention, convolution, a loop and a large constant become."""
import sys, time, warnings
from pathlib import Path

years = float(sys.argv[2])
now = time.time
time.time = lambda: now() + years * 365 * 86400
warnings.simplefilter("ignore")

import torch
from coreai_torch import TorchConverter, get_decomp_table
from shared.conversion.coreai_canonical import canonicalize
from shared.conversion.coreai_recurrent import as_one_op, register_loops
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 32, 3)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.lstm = nn.LSTM(32, 8, batch_first=True)
    def forward(self, x):
        return self.lstm(self.layer(self.conv(x).transpose(1, 2)))[0].mean(1)

torch.manual_seed(0)
net, x = Net().eval(), torch.linspace(-2, 2, 56).reshape(2, 4, 7)
axes = {0: torch.export.Dim("batch", min=1, max=64)}
with as_one_op():
    program = torch.export.export(net, (x,), dynamic_shapes=(axes,)).run_decompositions(get_decomp_table())
path = Path(sys.argv[1])
converter = TorchConverter()
register_loops(converter)
asset = converter.add_exported_program(program).to_coreai().save_asset(path)
asset.update_metadata(lambda notes: [notes.set_custom(key, [key, 1]) for key in ("b", "a", "d", "c")] and None)
print(Path(path, "metadata.json").read_text())
canonicalize(path)
torch.save(net(x).detach(), path.with_suffix(".pt"))
'''


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two exports of one net, by processes of other hash seeds, in other folders, on other days."""
    paths = [tmp_path_factory.mktemp(name) / "net.aimodel" for name in ("here", "over there")]
    processes = []
    for number, path in enumerate(paths):
        script = path.parent / f"export{number}.py"
        script.write_text(EXPORT)
        environment = clean_environment() | {"PYTHONPATH": str(ROOT / "stages"), "PYTHONHASHSEED": str(number)}
        processes.append(
            subprocess.Popen(
                [sys.executable, script, path, str(3 * number)],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    outputs = [process.communicate() for process in processes]
    for process, (_, error) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, error
    dates = [line for printed, _ in outputs for line in printed.splitlines() if "creationDate" in line]
    assert len(set(dates)) == 2, "the clocks differed"
    return paths


def files(asset: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in asset.iterdir()}


def test_two_exports_have_the_same_bytes(exports: list[Path]) -> None:
    here, there = (files(path) for path in exports)
    assert {"main.mlirb", "main.hash", "metadata.json"} == set(here)
    assert here == there
    assert here["main.hash"] == hashlib.sha256(here["main.mlirb"]).digest()
    origin = [b"export0", str(exports[0].parent).encode()]
    assert not any(name in content for content in here.values() for name in origin)


def test_a_canonical_asset_stays_as_it_is(exports: list[Path]) -> None:
    before = files(exports[1])
    canonicalize(exports[1])
    assert files(exports[1]) == before


def test_apples_runtime_computes_with_it_what_torch_does(exports: list[Path]) -> None:
    import torch

    [[found]] = run(exports[0], {"x": np.linspace(-2, 2, 56, dtype=np.float32).reshape(2, 4, 7)})
    np.testing.assert_allclose(found, torch.load(exports[0].with_suffix(".pt")).numpy(), atol=1e-5)
    metadata = json.loads((exports[0] / "metadata.json").read_text())
    assert metadata["creatorDefinedMetadata"] == {key: [key, 1] for key in "abcd"}


def test_names_follow_from_their_order_alone() -> None:
    """And a name that only looks like one of them stays."""
    program = (
        "coreai.graph private noinline @layer_norm_abcdefgh(%arg0: tensor<4xf32>)\n"
        "coreai.graph @main(%arg0: tensor<4xf32>)\n"
        "%0 = coreai.constant dense_resource<resource_9> : tensor<4xf32>\n"
        "%1 = coreai.constant dense_resource<resource_10> : tensor<4xf32>\n"
        "%2 = coreai.invoke @layer_norm_abcdefgh(%0, %1)\n"
        '      resource_10: "0x10",\n      resource_9: "0x09"\n'
    )
    assert rename(program) == (
        "coreai.graph private noinline @layer_norm_0(%arg0: tensor<4xf32>)\n"
        "coreai.graph @main(%arg0: tensor<4xf32>)\n"
        "%0 = coreai.constant dense_resource<constant_0> : tensor<4xf32>\n"
        "%1 = coreai.constant dense_resource<constant_1> : tensor<4xf32>\n"
        "%2 = coreai.invoke @layer_norm_0(%0, %1)\n"
        '      constant_1: "0x10",\n      constant_0: "0x09"\n'
    )

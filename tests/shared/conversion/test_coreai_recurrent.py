"""Recurrent nets as loops of a Core AI program: Apple's runtime computes what torch does, whatever the length."""

import contextlib
from pathlib import Path
from typing import Any

from tests.support import classifier

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

pytest.importorskip("coreai_torch", reason="coreai-torch is not installed")

from shared.conversion.coreai_canonical import canonicalize
from shared.conversion.coreai_recurrent import as_one_op
from tests.core_ai_assets import export, run

BATCH, TIME = Dim("batch", min=1, max=512), Dim("time", min=1, max=1000)
SIZES = ((1, 1), (3, 7), (64, 2), (512, 9), (2, 150))
"""Batch and time: never those of the trace."""


RECURRENT: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {"batch_first": True}),
    ("LSTM", {"num_layers": 2, "bidirectional": True}),
    ("LSTM", {"proj_size": 3, "num_layers": 2, "bias": False, "batch_first": True}),
    ("GRU", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("GRU", {"bias": False}),
    ("RNN", {"nonlinearity": "relu", "bidirectional": True}),
    ("RNN", {"batch_first": True}),
]


class All(nn.Module):
    """What each of these recurrent modules returns: the outputs and the last states. An export costs a second."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(getattr(nn, kind)(2, 5, **options) for kind, options in RECURRENT)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        results: list[Tensor] = []
        for net in self.nets:
            outputs, states = net(x if net.batch_first else x.transpose(0, 1))
            results += [outputs, *(states if isinstance(states, tuple) else [states])]
        return tuple(results)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_it_computes_what_torch_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = All()
    asset = export(net, tmp_path / "net.aimodel", [torch.zeros(4, 6, 2)], ({0: BATCH, 1: TIME},))
    names = [
        f"{kind} {options}, {what}"
        for kind, options in RECURRENT
        for what in ("outputs", "state", "memory")[: 3 if kind == "LSTM" else 2]
    ]
    inputs = [torch.randn(*size, 2) for size in SIZES]
    for x, found in zip(inputs, run(asset, *({"x": x.numpy()} for x in inputs)), strict=True):
        with torch.inference_mode():
            expected = net(x)
        for name, one, other in zip(names, found, expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("name", "layers"), [("lstm", 2), ("gru", 1)])
def test_sequences_of_different_lengths(tmp_path: Path, name: str, layers: int) -> None:
    """Both directions, of which each reads each sequence up to its own end; any length will do."""
    model = classifier(name, time_steps=6, ragged=True, layers=layers, bidirectional=True, hidden_size=6)
    traced = [torch.zeros(4, 6, 2), torch.full((4,), 6, dtype=torch.int32)]
    asset = export(model, tmp_path / "net.aimodel", traced, ({0: BATCH, 1: TIME}, {0: BATCH}))
    generator = torch.Generator().manual_seed(0)
    inputs = [
        (
            torch.randn(*size, 2, generator=generator),
            torch.randint(-1, size[1] + 3, size[:1], generator=generator).int(),
        )
        for size in SIZES
    ]
    results = run(asset, *({"sequence": x.numpy(), "lengths": lengths.numpy()} for x, lengths in inputs))
    for (x, lengths), [found] in zip(inputs, results, strict=True):
        with torch.inference_mode():
            np.testing.assert_allclose(found, model(x, lengths).numpy(), atol=1e-6)


def test_half_precision(tmp_path: Path) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = classifier("lstm", hidden_size=8).half()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x.half())
            return logits.float()

    net = Half()
    asset = export(net, tmp_path / "net.aimodel", [torch.zeros(4, 6, 2)], ({0: BATCH, 1: TIME},))
    x = torch.randn(3, 9, 2)
    [[found]] = run(asset, {"x": x.numpy()})
    exact = classifier("lstm", hidden_size=8)(x).detach().numpy()
    error = np.abs(found - exact).max() / np.abs(exact).max()
    assert 1e-6 < error < 2e-3


def test_the_file_does_not_grow_with_the_sequence(tmp_path: Path) -> None:
    """Nor do its bytes depend on the export, and what is unread is not in it."""

    def program(steps: int) -> bytes:
        model = classifier("lstm", time_steps=steps, hidden_size=8)
        asset = export(model, tmp_path / f"{steps}.aimodel", [torch.zeros(4, steps, 2)], ({0: BATCH},))
        canonicalize(asset)
        return (asset / "main.mlirb").read_bytes()

    short, long, weights = program(5), program(500), 4 * sum(8 * 4 * width for width in (2, 8, 1, 1))
    assert abs(len(long) - len(short)) < 100
    assert weights < len(short) < weights + 5000
    assert program(5) == short


def test_torch_s_own_functions_come_back() -> None:
    from torch import _VF

    before = _VF.lstm
    with contextlib.suppress(KeyError), as_one_op():
        assert _VF.lstm is not before
        raise KeyError
    assert _VF.lstm is before

"""What is taken apart for Core AI computes what torch's operation does, also with a number of time steps left open."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("coreai_torch", reason="coreai-torch is not installed")

from shared.conversion.coreai_decompositions import DECOMPOSITIONS, aten
from tests.core_ai_assets import export, run

X = torch.randn(5, 8, 6, generator=torch.Generator().manual_seed(0))
OPEN: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": nn.ELU(0.7),
    "elu of SELU": nn.SELU(),
    "elu of CELU": nn.CELU(1.3),
    "var": lambda x: x.var(1),
    "var of all, without a correction": lambda x: x.var((1, 2), correction=0, keepdim=True),
    "var of std": lambda x: x.std(1),
    "var_mean": lambda x: torch.cat(torch.var_mean(x, 1), 1),
    "avg_pool2d": lambda x: functional.avg_pool1d(x.transpose(1, 2), 3, 2, 1, count_include_pad=False),
    "avg_pool2d of images": lambda x: functional.avg_pool2d(x.unsqueeze(1), 3, 2, 1, count_include_pad=False),
    "adaptive_avg_pool1d": lambda x: functional.adaptive_avg_pool1d(x.transpose(1, 2), 1),
    "adaptive_max_pool2d": lambda x: functional.adaptive_max_pool1d(x.transpose(1, 2), 1),
    "unfold": lambda x: x.unfold(1, 4, 2),
}
FIXED: dict[str, Callable[[Tensor], Tensor]] = {
    "adaptive_avg_pool1d to several": lambda x: functional.adaptive_avg_pool1d(x.transpose(1, 2), 3),
    "sort": lambda x: torch.cat([x.sort(1).values, x.sort(1, descending=True).values], 1),
    "sort of argsort": lambda x: x.argsort(1).float(),
}
"""Those of a fixed number of steps alone."""


class Together(nn.Module):
    """All at once: an export costs a second, whatever is in it."""

    def __init__(self, functions: dict[str, Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.functions = list(functions.values())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(x) for function in self.functions)


@pytest.mark.parametrize("functions", [OPEN, FIXED], ids=["any length", "fixed length"])
def test_apples_runtime_computes_what_torch_does(
    tmp_path: Path, functions: dict[str, Callable[[Tensor], Tensor]]
) -> None:
    net = Together(functions)
    axes = {0: torch.export.Dim("batch", min=1, max=64)} | ({1: torch.export.Dim.AUTO} if functions is OPEN else {})
    asset = export(net, tmp_path / "net.aimodel", [X[:3]], (axes,))
    inputs = [X, torch.cat([X, X[:, :3] * 2], 1)][: 2 if functions is OPEN else 1]
    for x, found in zip(inputs, run(asset, *({"x": x.numpy()} for x in inputs)), strict=True):
        for name, one, expected in zip(functions, found, net(x), strict=True):
            np.testing.assert_allclose(one, expected.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


def test_what_needs_no_help_stays_as_it_is() -> None:
    pool, image = DECOMPOSITIONS[aten.avg_pool2d.default], X[:, None]
    assert pool(image, [3, 3], [2, 2], [1, 1]) is NotImplemented
    assert pool(image, [3, 3], [2, 2], [0, 0], False, False) is NotImplemented
    assert DECOMPOSITIONS[aten.adaptive_max_pool2d.default](image, [2, 2]) is NotImplemented


def test_every_operation_that_is_taken_apart_is_tested() -> None:
    names = {function.__name__ for function in DECOMPOSITIONS.values()}
    assert names == {case.split()[0] for case in (*OPEN, *FIXED)}

"""What is written otherwise for Core ML computes what torch's function does."""

from collections.abc import Callable

from shared.conversion.rewriting import REWRITTEN, Rewriting

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

X = torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(0))
CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "expand": lambda x: x[:, :1].expand(-1, 5, -1),
    "expand a mask": lambda x: (x[:, :1] > 0).expand(3, 5, 6),
    "expand_as": lambda x: x[:1].expand_as(x),
    "broadcast_to": lambda x: torch.broadcast_to(x[:1], x.shape),
    "unfold": lambda x: x.unfold(1, 3, 2),
    "diff": lambda x: x.diff(n=2, dim=1),
    "circular": lambda x: functional.pad(x, (2, 1), mode="circular"),
    "zeros": lambda x: functional.pad(x, (2, 1), value=0.5),
    "matmul": lambda x: x @ x[0, 0],
    "group_norm": nn.GroupNorm(4, 8),
    "group_norm of images": lambda x: functional.group_norm(x.unsqueeze(3), 2, eps=0.1),
    "rms_norm": nn.RMSNorm((8, 6), eps=0.5),
    "rms_norm of zeros": lambda x: nn.RMSNorm(6)(x * 0),
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d(4),
    "adaptive_max_pool1d": nn.AdaptiveMaxPool1d(1),
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d(1),
    "logsigmoid": nn.LogSigmoid(),
    "lstm_cell": lambda x: nn.LSTMCell(6, 4)(x[:, 0])[1],
    "gru_cell": lambda x: nn.GRUCell(6, 4, bias=False)(x[:, 0]),
    "rnn_tanh": lambda x: nn.RNN(6, 4, 2, bidirectional=True, batch_first=True)(x)[0],
    "rnn_relu": lambda x: nn.RNN(6, 4, 2, nonlinearity="relu", bidirectional=True, bias=False)(x)[1],
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_it_computes_what_torch_does(name: str) -> None:
    torch.manual_seed(0)
    expected = CASES[name](X)
    torch.manual_seed(0)
    with Rewriting():
        found = CASES[name](X)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == expected.dtype


def test_every_function_that_is_rewritten_is_tested() -> None:
    names = {function.__name__ for function in REWRITTEN.values()} - {"fft"}
    assert names <= {word for case in CASES for word in case.split()} | {"pad"}

"""Small modules, one for each op that sequence nets use, in the ways that they use it.

Each reads `(batch, STEPS, FEATURES)` and gives anything with the batch first. Codes, masks and orders are made of the
values, which are the same in half precision.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

STEPS, FEATURES = 8, 4

MODULES: dict[str, Callable[[], nn.Module]] = {}
"""What makes each of them, by name."""


class Applied(nn.Module):
    """A function of the sequences, and the module that it calls with them."""

    def __init__(self, function: Callable[..., Tensor], part: nn.Module | None) -> None:
        super().__init__()
        self.function, self.part = function, part

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) if self.part is None else self.function(x, self.part)


def add(name: str, function: Callable[..., Tensor], part: Callable[[], nn.Module] | None = None) -> None:
    """Add one: a function of the sequences, and of the module that `part` makes."""
    assert name not in MODULES
    MODULES[name] = lambda: Applied(function, part() if part else None)


def over_time(x: Tensor, part: Any) -> Tensor:
    """Apply a module that reads (batch, features, time)."""
    result: Tensor = part(x.transpose(1, 2))
    return result


def plain(x: Tensor, part: Any) -> Tensor:
    result: Tensor = part(x)
    return result


# --- linear layers and products ---
add("linear", plain, lambda: nn.Linear(FEATURES, 6))
add("linear without bias", plain, lambda: nn.Linear(FEATURES, 6, bias=False))
add("linear over all steps", lambda x, part: part(x.flatten(1)), lambda: nn.Linear(STEPS * FEATURES, 3))
add("matmul of two activations", lambda x: x @ x.transpose(1, 2))
add("bmm", lambda x: torch.bmm(x.transpose(1, 2), x))
add("einsum", lambda x: torch.einsum("bti,bsi->bts", x, x))
add("outer product", lambda x: x[:, 0].unsqueeze(2) * x[:, 1].unsqueeze(1))

# --- convolutions ---
add("conv1d", over_time, lambda: nn.Conv1d(FEATURES, 6, 3))
add("conv1d, stride", over_time, lambda: nn.Conv1d(FEATURES, 6, 3, stride=2))
add("conv1d, dilation", over_time, lambda: nn.Conv1d(FEATURES, 6, 3, dilation=2))
add("conv1d, groups", over_time, lambda: nn.Conv1d(FEATURES, 8, 3, groups=2))
add("conv1d, depthwise", over_time, lambda: nn.Conv1d(FEATURES, FEATURES, 3, groups=FEATURES, padding=1))
add("conv1d, same, even kernel", over_time, lambda: nn.Conv1d(FEATURES, 6, 4, padding="same"))
add("conv1d, reflect", over_time, lambda: nn.Conv1d(FEATURES, 6, 3, padding=2, padding_mode="reflect"))
add("conv1d, replicate", over_time, lambda: nn.Conv1d(FEATURES, 6, 3, padding=2, padding_mode="replicate"))
add("conv1d, circular", over_time, lambda: nn.Conv1d(FEATURES, 6, 3, padding=2, padding_mode="circular"))
add("conv1d, causal", lambda x, part: part(F.pad(x.transpose(1, 2), (4, 0))), lambda: nn.Conv1d(4, 6, 3, dilation=2))
add("transposed conv1d", over_time, lambda: nn.ConvTranspose1d(FEATURES, 6, 3))
add(
    "transposed conv1d, stride, output padding",
    over_time,
    lambda: nn.ConvTranspose1d(FEATURES, 6, 3, stride=2, padding=1, output_padding=1),
)
add("transposed conv1d, groups", over_time, lambda: nn.ConvTranspose1d(FEATURES, 4, 3, groups=2, bias=False))

# --- pools ---
add("max_pool1d", over_time, lambda: nn.MaxPool1d(2))
add("max_pool1d, padding", over_time, lambda: nn.MaxPool1d(3, stride=2, padding=1))
add("avg_pool1d", over_time, lambda: nn.AvgPool1d(2))
add("avg_pool1d, padding", over_time, lambda: nn.AvgPool1d(3, stride=2, padding=1))
add("avg_pool1d, padding not counted", over_time, lambda: nn.AvgPool1d(3, 2, 1, count_include_pad=False))
add("adaptive average to one", over_time, lambda: nn.AdaptiveAvgPool1d(1))
add("adaptive maximum to one", over_time, lambda: nn.AdaptiveMaxPool1d(1))

# --- normalisations ---


def trained(module: nn.Module) -> nn.Module:
    """The module with parameters and running statistics that are not those it begins with."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = 0.5 + torch.rand(tensor.shape)
    return module


add("layer norm", plain, lambda: trained(nn.LayerNorm(FEATURES)))
add("layer norm over time and features", plain, lambda: trained(nn.LayerNorm([STEPS, FEATURES])))
add("layer norm without weights", plain, lambda: nn.LayerNorm(FEATURES, elementwise_affine=False))
add("batch norm", over_time, lambda: trained(nn.BatchNorm1d(FEATURES)))
add("group norm", over_time, lambda: trained(nn.GroupNorm(2, FEATURES)))
add("instance norm", over_time, lambda: trained(nn.InstanceNorm1d(FEATURES, affine=True)))
add("RMS norm", plain, lambda: trained(nn.RMSNorm(FEATURES)))
add("conv1d and batch norm", over_time, lambda: nn.Sequential(nn.Conv1d(4, 6, 3), trained(nn.BatchNorm1d(6))))

# --- activations ---
for activation in (
    nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1), nn.PReLU(), nn.ELU(), nn.SELU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(),
    nn.Sigmoid(), nn.Tanh(), nn.Softplus(), nn.Softsign(), nn.Hardswish(), nn.Hardsigmoid(), nn.Mish(), nn.LogSigmoid(),
):  # fmt: skip
    add(str(activation), plain, lambda activation=activation: activation)  # type: ignore[misc]
add("GLU", plain, lambda: nn.GLU())
add("softmax", lambda x: x.softmax(-1))
add("softmax over time", lambda x: x.softmax(1))
add("log_softmax", lambda x: x.log_softmax(-1))
add("logsumexp", lambda x: x.logsumexp(1))

# --- attention ---


def attend(x: Tensor, part: Any) -> Tensor:
    result: Tensor = part(x, x, x, need_weights=False)[0]
    return result


def causal(x: Tensor) -> Tensor:
    steps = torch.ones(STEPS, STEPS, dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(x, x, x, attn_mask=steps)


add("multi-head attention", attend, lambda: nn.MultiheadAttention(FEATURES, 2, batch_first=True))
add("scaled dot product attention", lambda x: F.scaled_dot_product_attention(x, x, x))
add("scaled dot product attention, causal", causal)
add(
    "transformer layer",
    plain,
    lambda: nn.TransformerEncoderLayer(FEATURES, 2, 8, batch_first=True, norm_first=True, activation="gelu"),
)

# --- picking and ordering ---


def codes(x: Tensor) -> Tensor:
    """Whole numbers from 0 to 7, of the first feature."""
    return (x[..., 0].abs() * 4).clamp(max=7).long()


add("embedding", lambda x, part: part(codes(x)), lambda: nn.Embedding(8, 5))
add("gather over time", lambda x: x.gather(1, codes(x).unsqueeze(2) + torch.zeros_like(x[0, 0], dtype=torch.long)))
add("index_select", lambda x: x.index_select(1, torch.tensor([6, 0, 3])))
add("argmax", lambda x: x.argmax(2).to(x.dtype))
add("cumsum over time", lambda x: x.cumsum(1))
add("sort over time", lambda x: x.sort(1).values)
add("topk over time", lambda x: x.topk(3, dim=1).values)

# --- reductions ---
add("sum over time", lambda x: x.sum(1))
add("mean over time", lambda x: x.mean(1))
add("maximum over time", lambda x: x.amax(1))
add("minimum over time", lambda x: x.amin(1))
add("product over features", lambda x: x.prod(2))
add("variance over time", lambda x: x.var(1))
add("deviation over time", lambda x: x.std(1, correction=0))
add("mean and deviation over time", lambda x: torch.cat([x.mean(1), x.std(1)], 1))
add("Euclidean norm over features", lambda x: torch.linalg.vector_norm(x, dim=2))
add("mean of time and features", lambda x: x.mean((1, 2), keepdim=True))

# --- shapes ---
add("last step", lambda x: x[:, -1])
add("every second step", lambda x: x[:, 1::2])
add("differences of steps", lambda x: x[:, 1:] - x[:, :-1])
add("concatenation", lambda x: torch.cat([x, x[:, :3]], 1))
add("stack", lambda x: torch.stack([x, -x], 2))
add("pad with a constant", lambda x: F.pad(x, (0, 0, 2, 1), value=1.5))
add("flip of time", lambda x: x.flip(1))
add("roll of time", lambda x: x.roll(2, 1))
add("chunk", lambda x: torch.cat(x.chunk(2, 2)[::-1], 2))
add("reshape and permute", lambda x: x.reshape(-1, 4, 2, 4).permute(0, 3, 1, 2).flatten(2))
add("repeat", lambda x: x.repeat(1, 2, 1))
add("windows by unfold", lambda x: x.unfold(1, 4, 2))

# --- masks and comparisons ---
add("where", lambda x: torch.where(x > 0.25, x, x * 3))
add("masked_fill", lambda x: x.masked_fill(x < 0, -2.0).amax(1))
add("comparisons", lambda x: (x >= 0.5).to(x.dtype) + (x <= -0.5).to(x.dtype) * 2 + (x == x.flip(1)).to(x.dtype) * 4)
add("logical operations", lambda x: torch.logical_or((x > 0) & ~(x > 1), x < -1).to(x.dtype))
add("any and all", lambda x: torch.cat([(x > 1.5).any(1), (x > -1.5).all(1)], 1).to(x.dtype))
add("mask of later steps", lambda x: x.masked_fill(torch.arange(STEPS).unsqueeze(1) > 4, 0.0))

# --- elementwise ---
add("clamp", lambda x: x.clamp(-0.5, 1.0))
add("rsqrt", lambda x: (x.abs() + 0.5).rsqrt())
add("exp", lambda x: x.exp())
add("log", lambda x: (x.abs() + 0.25).log())
add("sqrt", lambda x: (x.abs() + 0.25).sqrt())
add("power", lambda x: x.abs().pow(1.5) + x.pow(3))
add("division", lambda x: x / (x.flip(1).abs() + 0.5))
add("floor and round", lambda x: x.floor() + (x * 4 + 0.25).round())
add("sign and absolute", lambda x: x.sign() * 2 + x.abs())
add("sine and cosine", lambda x: x.sin() + 2 * x.cos())
add("erf", lambda x: torch.erf(x))
add("maximum and minimum of two", lambda x: torch.maximum(x, x.flip(1)) - torch.minimum(x, x.flip(2)))

# --- recurrent ---


def last_state(x: Tensor, part: Any) -> Tensor:
    states = part(x)[1]
    last: Tensor = (states[0] if isinstance(states, tuple) else states)[-1]
    return last


def outputs(x: Tensor, part: Any) -> Tensor:
    result: Tensor = part(x)[0]
    return result


add("LSTM", last_state, lambda: nn.LSTM(FEATURES, 5, batch_first=True))
add(
    "LSTM, outputs of two layers in both directions",
    outputs,
    lambda: nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True),
)
add("LSTM without biases", last_state, lambda: nn.LSTM(FEATURES, 5, bias=False, batch_first=True))
add("GRU", last_state, lambda: nn.GRU(FEATURES, 5, batch_first=True))
add(
    "GRU, outputs of two layers in both directions",
    outputs,
    lambda: nn.GRU(4, 5, 2, batch_first=True, bidirectional=True),
)
add("RNN", last_state, lambda: nn.RNN(FEATURES, 5, batch_first=True))
add(
    "RNN, relu, outputs in both directions",
    outputs,
    lambda: nn.RNN(4, 5, nonlinearity="relu", batch_first=True, bidirectional=True),
)

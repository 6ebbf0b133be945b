"""While a net is traced for Core ML: what coremltools lacks or converts wrongly, written with operations that it has.

Each function here computes what torch's of the same name does, and is called in its place. The net stays as it is: its
authors write torch, and PyTorch itself runs what they wrote.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from shared.conversion.failures import Unsupported

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Function = Callable[..., Any]
REWRITTEN: dict[Function, Function] = {}
"""torch's function, and ours."""


class Watching(TorchFunctionMode):
    """Within this context, an operation that no exporter can carry is told by its own name."""

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of `func`; within it the context is left."""
        if func is torch._VF._pack_padded_sequence:
            raise Unsupported("pack_padded_sequence")
        return self.call(func)(*args, **kwargs or {})

    def call(self, func: Function) -> Function:
        """What to call in place of torch's function."""
        return func


class Rewriting(Watching):
    """Within this context, calls of torch's functions are calls of ours; torch's fast paths are off."""

    def call(self, func: Function) -> Function:
        """What to call in place of torch's function."""
        return REWRITTEN.get(func, func)


def instead_of(*functions: Function) -> Callable[[Function], Function]:
    """Mark a function as the one to call in place of torch's."""

    def mark(ours: Function) -> Function:
        REWRITTEN.update(dict.fromkeys(functions, ours))
        return ours

    return mark


# --- shapes ---


@instead_of(Tensor.expand)
def expand(x: Tensor, *sizes: Any) -> Tensor:
    """By an addition: of a ranged axis, the converter computes the wrong shape without a word."""
    sizes = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else sizes
    ones = [1 if isinstance(size, int) and size == -1 else size for size in sizes]
    zeros = torch.zeros(ones, dtype=torch.int32 if x.dtype == torch.bool else x.dtype)
    return (x.to(zeros.dtype) + zeros).to(x.dtype) if x.dtype == torch.bool else x + zeros


@instead_of(Tensor.expand_as)
def expand_as(x: Tensor, other: Tensor) -> Tensor:
    """See `expand`."""
    expanded: Tensor = expand(x, *other.shape)
    return expanded


@instead_of(torch.broadcast_to, Tensor.broadcast_to)
def broadcast_to(x: Tensor, size: Any) -> Tensor:
    """See `expand`."""
    expanded: Tensor = expand(x, *size)
    return expanded


@instead_of(Tensor.unfold)
def unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Each place in the window is a slice of its own."""
    dimension %= x.ndim
    last = x.shape[dimension] - size + 1
    return torch.stack([_slice(x, dimension, place, place + last, step) for place in range(size)], dim=-1)


@instead_of(torch.diff, Tensor.diff)
def diff(x: Tensor, n: int = 1, dim: int = -1) -> Tensor:
    """Neighbours subtracted, as often as asked for."""
    dim %= x.ndim
    for _ in range(n):
        length = x.shape[dim]
        x = _slice(x, dim, 1, length) - _slice(x, dim, 0, length - 1)
    return x


def _slice(x: Tensor, axis: int, start: Any, end: Any, step: int = 1) -> Tensor:
    return x[(*[slice(None)] * axis, slice(start, end, step))]


@instead_of(functional.pad)
def pad(x: Tensor, pad: list[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Of circular padding, the ends are put together by hand."""
    if mode != "circular":
        return functional.pad(x, pad, mode, value)
    for axis, (left, right) in enumerate(zip(pad[::2], pad[1::2], strict=True), start=1):
        length = x.shape[-axis]
        first = _slice(x, x.ndim - axis, length - left, length)
        x = torch.cat([first, x, _slice(x, x.ndim - axis, 0, right)], dim=-axis)
    return x


@instead_of(torch.matmul, Tensor.matmul, Tensor.__matmul__)
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """A vector is a matrix of one column."""
    return torch.matmul(a, b.unsqueeze(1)).squeeze(-1) if b.ndim == 1 and a.ndim > 1 else torch.matmul(a, b)


@instead_of(torch.fft.fft, torch.fft.rfft, torch.fft.ifft, torch.fft.irfft, torch.stft)
def fft(*_: Any, **__: Any) -> Tensor:
    """The converter fails at it, without a name, for a ranged batch."""
    raise Unsupported("fft")


# --- activations ---


@instead_of(functional.logsigmoid)
def logsigmoid(x: Tensor) -> Tensor:
    """`log(1 / (1 + exp(-x)))` as what it is: less the softplus of -x."""
    return -functional.softplus(-x)


# --- normalisation ---


@instead_of(functional.group_norm)
def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Mean and variance of each group of channels; x is (batch, channels, ...)."""
    parts = x.unflatten(1, (num_groups, -1))
    axes = tuple(range(2, parts.ndim))
    parts = parts - parts.mean(axes, keepdim=True)
    x = (parts * torch.rsqrt(parts.square().mean(axes, keepdim=True) + eps)).flatten(1, 2)
    along = (-1, *[1] * (x.ndim - 2))
    x = x if weight is None else x * weight.view(along)
    return x if bias is None else x + bias.view(along)


@instead_of(functional.rms_norm)
def rms_norm(x: Tensor, normalized_shape: list[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """The converter would divide by the largest value, which is NaN at zeros, and add eps where it matters less."""
    axes = tuple(range(-len(normalized_shape), 0))
    x = x * torch.rsqrt(x.square().mean(axes, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps))
    return x if weight is None else x * weight


# --- pooling ---


@instead_of(functional.adaptive_avg_pool1d, torch.adaptive_avg_pool1d)
def adaptive_avg_pool1d(x: Tensor, output_size: Any) -> Tensor:
    """Means of slices."""
    return _pool(x, output_size, lambda part: part.mean(-1, keepdim=True))


@instead_of(functional.adaptive_max_pool1d)
def adaptive_max_pool1d(x: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
    """Largest values of slices."""
    if return_indices:
        raise Unsupported("adaptive_max_pool1d", "leave return_indices out")
    return _pool(x, output_size, lambda part: part.amax(-1, keepdim=True))


@instead_of(functional.adaptive_avg_pool2d)
def adaptive_avg_pool2d(x: Tensor, output_size: Any) -> Tensor:
    """Only over all that there is."""
    if output_size not in (1, (1, 1), [1, 1]):
        raise Unsupported("adaptive_avg_pool2d", "nn.AvgPool2d, or 1 as its output size")
    return x.mean((-2, -1), keepdim=True)


def _pool(x: Tensor, output_size: Any, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    [size] = output_size if isinstance(output_size, list | tuple) else [output_size]
    if size == 1:
        return reduce(x)
    length = int(x.shape[-1])  # the traced one: with a ranged time axis the check of the trace finds it
    ends = [(place * length // size, -(-(place + 1) * length // size)) for place in range(size)]
    return torch.cat([reduce(x[..., start:end]) for start, end in ends], dim=-1)


# --- recurrent cells and layers ---


@instead_of(torch.lstm_cell)
def lstm_cell(x: Tensor, state: tuple[Tensor, Tensor], w: Tensor, r: Tensor, *biases: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM; gates in torch's order."""
    h, c = state
    i, f, g, o = _thirds(_affine(x, w, biases[:1]) + _affine(h, r, biases[1:]), 4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@instead_of(torch.gru_cell)
def gru_cell(x: Tensor, h: Tensor, w: Tensor, r: Tensor, *biases: Tensor) -> Tensor:
    """One step of a GRU; gates in torch's order."""
    x_reset, x_update, x_new = _thirds(_affine(x, w, biases[:1]), 3)
    h_reset, h_update, h_new = _thirds(_affine(h, r, biases[1:]), 3)
    new = (x_new + (x_reset + h_reset).sigmoid() * h_new).tanh()
    return new + (x_update + h_update).sigmoid() * (h - new)


def _affine(x: Tensor, weights: Tensor, bias: tuple[Tensor, ...]) -> Tensor:
    return functional.linear(x, weights, bias[0] if bias else None)


def _thirds(x: Tensor, parts: int) -> list[Tensor]:
    """Equal parts of the last axis, by slices: torch traces its own `chunk` of a cell as another operation."""
    width = x.shape[-1] // parts
    return [x[:, start * width : end * width] for start, end in pairwise(range(parts + 1))]


@instead_of(torch.rnn_tanh)
def rnn_tanh(*args: Any) -> tuple[Tensor, Tensor]:
    """See `_rnn`."""
    return _rnn(torch.rnn_tanh, *args)


@instead_of(torch.rnn_relu)
def rnn_relu(*args: Any) -> tuple[Tensor, Tensor]:
    """See `_rnn`."""
    return _rnn(torch.rnn_relu, *args)


def _rnn(
    layer: Function, x: Tensor, initial: Tensor, weights: list[Tensor], biases: bool, layers: int, dropout: float,
    training: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Both directions of a plain recurrent layer, each as a layer of its own: the converter knows one."""
    if not bidirectional:
        given: tuple[Tensor, Tensor] = layer(x, initial, weights, biases, layers, dropout, training, False, batch_first)
        return given
    time, count, states = 1 if batch_first else 0, 4 if biases else 2, []
    for start in range(0, 2 * layers, 2):
        outputs = []
        for net in (start, start + 1):
            own = weights[net * count : (net + 1) * count]
            read = x.flip(time) if net > start else x
            y, state = layer(read, initial[net : net + 1], own, biases, 1, 0.0, False, False, batch_first)
            outputs.append(y.flip(time) if net > start else y)
            states.append(state)
        x = torch.cat(outputs, dim=-1)
    return x, torch.cat(states, dim=0)

"""Nets as engineers write them: one small architecture of each kind, and which formats can carry it.

None is registered: `named` makes one an architecture for as long as a test runs.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from shared.kit.params import StageParams
from shared.network.architectures import ARCHITECTURES
from shared.network.architectures.base import Architecture, Sizes, mean_over_time
from shared.network.model import ModelConfig, SequenceClassifier

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

FEATURES, TIME_STEPS, CLASSES, WIDTH, TOKENS = 2, 8, 3, 16, 64

NETS: dict[str, type["Net"]] = {}
"""By what makes each of them a kind of its own."""


class Net(Architecture):
    """Base of the nets here.

    Attributes:
        tokens: Whether its first feature is a number of a table's row.
    """

    class Options(StageParams):
        """None."""

    title: ClassVar[str]
    tokens: ClassVar[bool] = False

    def __init_subclass__(cls, *, title: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if title:
            cls.title = title
            NETS[title] = cls

    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.out = nn.Linear(WIDTH, sizes.classes)


@contextmanager
def named(net: type[Net]) -> Iterator[str]:
    """Let the net be an architecture of the pipeline, for a while."""
    ARCHITECTURES["net"] = net
    try:
        yield "net"
    finally:
        del ARCHITECTURES["net"]


def classifier(net: type[Net], *, standardize: bool = False) -> SequenceClassifier:
    """An untrained classifier around a net, ready to be exported."""
    torch.manual_seed(0)
    with named(net) as name:
        return SequenceClassifier(
            ModelConfig(
                features=["x", "y"],
                time_steps=TIME_STEPS,
                classes=["on", "off", "none"],
                ragged=False,
                standardize=standardize,
                architecture=name,
                options={},
            )
        ).eval()


# --- attention ---


class Embedded(Net):
    """Base of the nets that begin with a linear layer."""

    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.embed = nn.Linear(sizes.features, WIDTH)


class TorchTransformer(Embedded, title="nn.TransformerEncoder"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 4, 32, batch_first=True), 2)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.encoder(self.embed(sequence)).mean(1))


class TimeFirstTransformer(Embedded, title="nn.TransformerEncoderLayer, time first, norm first, GELU"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, norm_first=True, activation="gelu")

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.layer(self.embed(sequence).transpose(0, 1)).mean(0))


class MultiheadAttention(Embedded, title="nn.MultiheadAttention"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        x = self.embed(sequence)
        return self.out((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


class AttentionWithWeights(Embedded, title="nn.MultiheadAttention, its weights returned"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        x = self.embed(sequence)
        attended, weights = self.attention(x, x, x)
        return self.out(attended.mean(1) + weights.mean((1, 2)).unsqueeze(1))


class ScaledDotProduct(Embedded, title="F.scaled_dot_product_attention"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.parts = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        parts = self.parts(self.embed(sequence)).unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2).mean(1))


class CausalTransformer(Embedded, title="nn.TransformerEncoder with a causal mask"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 4, 32, batch_first=True), 1)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        mask = nn.Transformer.generate_square_subsequent_mask(sequence.shape[1])
        return self.out(self.encoder(self.embed(sequence), mask=mask, is_causal=True)[:, -1])


class LearnedPositions(Embedded, title="learned positions (nn.Parameter)"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.positions = nn.Parameter(torch.randn(1, sizes.time_steps, WIDTH))
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 4, 32, batch_first=True), 1)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.encoder(self.embed(sequence) + self.positions).mean(1))


class PositionTable(Embedded, title="learned positions (nn.Embedding of torch.arange)"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.positions = nn.Embedding(sizes.time_steps, WIDTH)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, batch_first=True)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        steps = torch.arange(sequence.shape[1])
        return self.out(self.layer(self.embed(sequence) + self.positions(steps)).mean(1))


class ClassToken(Embedded, title="a class token (torch.cat of an expanded nn.Parameter)"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, batch_first=True)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        token = self.token.expand(sequence.shape[0], -1, -1)
        return self.out(self.layer(torch.cat([token, self.embed(sequence)], dim=1))[:, 0])


class LearnedQuery(Embedded, title="a learned query (nn.MultiheadAttention of an expanded nn.Parameter)"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.query = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        x = self.embed(sequence)
        query = self.query.expand(x.shape[0], -1, -1)
        return self.out(self.attention(query, x, x, need_weights=False)[0][:, 0])


class RMSNorm(Embedded, title="nn.RMSNorm"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.norm = nn.RMSNorm(WIDTH, eps=1e-5)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.norm(self.embed(sequence).relu()).mean(1))


# --- recurrent ---


class Recurrent(Net):
    """Base of the nets that begin with recurrent layers."""

    module: ClassVar[Callable[..., nn.Module]]
    options_: ClassVar[dict[str, Any]] = {}

    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.rnn = type(self).module(sizes.features, WIDTH, batch_first=True, **self.options_)


class GRUWithAttention(Recurrent, title="nn.GRU with attention pooling"):
    module = nn.GRU

    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.score = nn.Linear(WIDTH, 1)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        outputs, _ = self.rnn(sequence)
        return self.out((self.score(outputs).softmax(1) * outputs).sum(1))


class GRUWithQuery(Recurrent, title="nn.GRU with a learned query (torch.matmul)"):
    module = nn.GRU

    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.query = nn.Parameter(torch.randn(WIDTH))

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        outputs, _ = self.rnn(sequence)
        weights = torch.matmul(outputs, self.query).softmax(1)
        return self.out(torch.bmm(weights.unsqueeze(1), outputs).squeeze(1))


class LSTMMean(Recurrent, title="nn.LSTM, the mean of its outputs"):
    module = nn.LSTM

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.rnn(sequence)[0].mean(1))


class LSTMDeep(Net, title="nn.LSTM, two layers, both directions"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.rnn = nn.LSTM(sizes.features, WIDTH // 2, 2, batch_first=True, bidirectional=True)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.rnn(sequence)[0][:, -1])


class GRUDeep(Net, title="nn.GRU, two layers, both directions"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.rnn = nn.GRU(sizes.features, WIDTH // 2, 2, batch_first=True, bidirectional=True)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.rnn(sequence)[0].amax(1))


class ElmanRNN(Recurrent, title="nn.RNN"):
    module = nn.RNN

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.rnn(sequence)[1][-1])


class ReluRNN(Net, title="nn.RNN, ReLU, two layers, both directions"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.rnn = nn.RNN(sizes.features, WIDTH // 2, 2, nonlinearity="relu", batch_first=True, bidirectional=True)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.rnn(sequence)[0].mean(1))


class LSTMNoBias(Recurrent, title="nn.LSTM without biases"):
    module = nn.LSTM
    options_: ClassVar = {"bias": False}

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.rnn(sequence)[1][0][-1])


class LSTMCells(Net, title="nn.LSTMCell in a loop over the steps"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.cell = nn.LSTMCell(sizes.features, WIDTH)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        state = None
        for step in range(sequence.shape[1]):
            state = self.cell(sequence[:, step], state)
        assert state is not None
        return self.out(state[0])


class GRUCells(Net, title="nn.GRUCell in a loop over the steps"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.cell = nn.GRUCell(sizes.features, WIDTH)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        state = None
        for step in range(sequence.shape[1]):
            state = self.cell(sequence[:, step], state)
        assert state is not None
        return self.out(state)


class RNNCells(Net, title="nn.RNNCell in a loop over the steps"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.cell = nn.RNNCell(sizes.features, WIDTH)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        state = torch.zeros(sequence.shape[0], WIDTH)
        for step in range(sequence.shape[1]):
            state = self.cell(sequence[:, step], state)
        return self.out(state)


class Projection(Net, title="nn.LSTM with proj_size"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.rnn = nn.LSTM(sizes.features, 2 * WIDTH, batch_first=True, proj_size=WIDTH)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.rnn(sequence)[0][:, -1])


class Packed(Recurrent, title="a packed sequence (pack_padded_sequence)"):
    module = nn.LSTM

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        ends = torch.full((sequence.shape[0],), sequence.shape[1])
        packed = nn.utils.rnn.pack_padded_sequence(sequence, ends, batch_first=True, enforce_sorted=False)
        return self.out(self.rnn(packed)[1][0][-1])


class Continued(Net, title="one nn.LSTM applied twice, its state continued"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.rnn = nn.LSTM(sizes.features, WIDTH, batch_first=True)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        _, state = self.rnn(sequence)
        return self.out(self.rnn(sequence, state)[0][:, -1])


class EncoderDecoder(Net, title="an nn.GRU that continues another's state"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.first = nn.GRU(sizes.features, WIDTH, batch_first=True)
        self.second = nn.GRU(sizes.features, WIDTH, batch_first=True)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        _, state = self.first(sequence)
        return self.out(self.second(sequence.flip(1), state)[0][:, -1])


class ExplicitState(Net, title="nn.LSTM with torch.zeros as its first state"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.rnn = nn.LSTM(sizes.features, WIDTH, batch_first=True)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        state = torch.zeros(1, sequence.size(0), WIDTH)
        return self.out(self.rnn(sequence, (state, state))[0][:, -1])


class LearnedState(Net, title="nn.LSTM with a learned first state (nn.Parameter expanded)"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.rnn = nn.LSTM(sizes.features, WIDTH, batch_first=True)
        self.h, self.c = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Parameter(torch.randn(1, 1, WIDTH))

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        h, c = (state.expand(-1, sequence.shape[0], -1).contiguous() for state in (self.h, self.c))
        return self.out(self.rnn(sequence, (h, c))[0][:, -1])


# --- convolutions ---


class Convolutional(Net):
    """Base of the nets that begin with a convolution over time."""

    padding_mode: ClassVar[Literal["zeros", "reflect", "replicate", "circular"]] = "zeros"

    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.conv = nn.Conv1d(sizes.features, WIDTH, 3, padding=1, padding_mode=self.padding_mode)


class GroupNorm(Convolutional, title="nn.GroupNorm"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.norm = nn.GroupNorm(4, WIDTH)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.norm(self.conv(sequence.transpose(1, 2))).relu().mean(2))


class BatchNorm(Convolutional, title="nn.BatchNorm1d and a skip connection"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.norm, self.second = nn.BatchNorm1d(WIDTH), nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        x = self.norm(self.conv(sequence.transpose(1, 2))).relu()
        return self.out((x + self.second(x)).mean(2))


class InstanceNorm(Convolutional, title="nn.InstanceNorm1d"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.norm = nn.InstanceNorm1d(WIDTH, affine=True)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.norm(self.conv(sequence.transpose(1, 2))).relu().mean(2))


class CircularPadding(Convolutional, title="nn.Conv1d with circular padding"):
    padding_mode = "circular"

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.conv(sequence.transpose(1, 2)).relu().mean(2))


class ReflectPadding(Convolutional, title="nn.Conv1d with reflected padding"):
    padding_mode = "reflect"

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.conv(sequence.transpose(1, 2)).relu().mean(2))


class ReplicatePadding(Convolutional, title="nn.Conv1d with replicated padding"):
    padding_mode = "replicate"

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.conv(sequence.transpose(1, 2)).relu().mean(2))


class AveragePooling(Convolutional, title="nn.AdaptiveAvgPool1d(1)"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.pool = nn.AdaptiveAvgPool1d(1)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.pool(self.conv(sequence.transpose(1, 2)).relu()).flatten(1))


class MaxPooling(Convolutional, title="nn.AdaptiveMaxPool1d(1)"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.pool = nn.AdaptiveMaxPool1d(1)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.pool(self.conv(sequence.transpose(1, 2)).relu()).squeeze(2))


class PoolingToFour(Convolutional, title="nn.AdaptiveAvgPool1d(4)"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.pool, self.out = nn.AdaptiveAvgPool1d(4), nn.Linear(4 * WIDTH, sizes.classes)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.pool(self.conv(sequence.transpose(1, 2)).relu()).flatten(1))


class Strided(Convolutional, title="strided convolutions, max pooling, flattened"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.pool, self.second = nn.MaxPool1d(2), nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.out = nn.Linear(WIDTH * math.ceil(sizes.time_steps / 4), sizes.classes)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.second(self.pool(self.conv(sequence.transpose(1, 2)).relu())).relu().flatten(1))


class Separable(Convolutional, title="depthwise separable convolutions, dilated, squeeze and excitation"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.depthwise = nn.Conv1d(WIDTH, WIDTH, 3, padding=2, dilation=2, groups=WIDTH)
        self.pointwise = nn.Conv1d(WIDTH, WIDTH, 1)
        self.squeeze, self.excite = nn.Linear(WIDTH, 4), nn.Linear(4, WIDTH)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        x = F.silu(self.pointwise(self.depthwise(self.conv(sequence.transpose(1, 2)))))
        gate = self.excite(self.squeeze(x.mean(2)).relu()).sigmoid()
        return self.out((x * gate.unsqueeze(2)).mean(2))


class CausalConvolution(Net, title="a causal convolution (F.pad on the left) with a GLU"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.conv = nn.Conv1d(sizes.features, 2 * WIDTH, 3)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(F.glu(self.conv(F.pad(sequence.transpose(1, 2), (2, 0))), dim=1)[:, :, -1])


class Deconvolution(Convolutional, title="nn.ConvTranspose1d"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.up = nn.ConvTranspose1d(WIDTH, WIDTH, 4, stride=2, padding=1)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.up(self.conv(sequence.transpose(1, 2)).relu()).relu().mean(2))


class Upsampled(Convolutional, title="F.interpolate (nearest) of the time axis"):
    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        x = self.conv(sequence.transpose(1, 2)).relu()
        return self.out((F.interpolate(x, scale_factor=2) ** 2).mean(2))


class Spectrogram(Net, title="nn.Conv2d on time and features"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.conv = nn.Conv2d(1, WIDTH, (3, 1), padding=(1, 0))

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.conv(sequence.unsqueeze(1)).relu().mean((2, 3)))


class ConvolutionThenLSTM(Convolutional, title="a convolution, then nn.LSTM"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.rnn = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.rnn(self.conv(sequence.transpose(1, 2)).relu().transpose(1, 2))[1][0][-1])


# --- tables, windows and others ---


class TokenEmbedding(Net, title="nn.Embedding, then nn.GRU"):
    tokens = True

    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.embed = nn.Embedding(TOKENS, 8)
        self.rnn = nn.GRU(8, WIDTH, batch_first=True)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.rnn(self.embed(sequence[..., 0].long().clamp(0, TOKENS - 1)))[1][-1])


class EmbeddingAndNumbers(Net, title="nn.Embedding with a padding index beside numbers"):
    tokens = True

    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.embed = nn.Embedding(TOKENS, WIDTH - 1, padding_idx=0)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        row = self.embed(sequence[..., 0].long().clamp(0, TOKENS - 1))
        return self.out(torch.cat([row, sequence[..., 1:2]], dim=2).tanh().mean(1))


class Unfold(Net, title="windows (Tensor.unfold)"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.embed = nn.Linear(3 * sizes.features, WIDTH)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.embed(sequence.unfold(1, 3, 1).flatten(2)).relu().mean(1))


class Patches(Net, title="patches (Tensor.reshape)"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.embed = nn.Linear(2 * sizes.features, WIDTH)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        patches = sequence.reshape(sequence.shape[0], sequence.shape[1] // 2, 2 * sequence.shape[2])
        return self.out(self.embed(patches).relu().mean(1))


class MixerBlock(Embedded, title="an MLP mixer (nn.Linear across time)"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.norm, self.mix = nn.LayerNorm(WIDTH), nn.Linear(sizes.time_steps, sizes.time_steps)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        x = self.embed(sequence)
        return self.out((x + self.mix(self.norm(x).transpose(1, 2)).transpose(1, 2)).mean(1))


class Einsum(Embedded, title="torch.einsum with a learned matrix"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.matrix = nn.Parameter(torch.randn(WIDTH, WIDTH) / 4)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(torch.einsum("btd,de->bte", self.embed(sequence), self.matrix).relu().mean(1))


class Statistics(Embedded, title="mean, deviation and largest of each channel"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.out = nn.Linear(3 * WIDTH, sizes.classes)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        x = self.embed(sequence)
        return self.out(torch.cat([x.mean(1), x.std(1), x.amax(1)], dim=1))


class TopK(Embedded, title="torch.topk over time"):
    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.embed(sequence).topk(2, dim=1).values.mean(1))


class Differences(Net, title="differences (torch.diff) and sums (torch.cumsum)"):
    def __init__(self, sizes: Sizes, options: Any) -> None:
        super().__init__(sizes, options)
        self.embed = nn.Linear(2 * sizes.features, WIDTH)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        parts = torch.cat([sequence.diff(dim=1), sequence.cumsum(1)[:, 1:]], dim=2)
        return self.out(self.embed(parts).relu().mean(1))


class Expanded(Embedded, title="a row expanded along time (Tensor.expand)"):
    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        x = self.embed(sequence)
        first = x[:, :1].expand(-1, x.shape[1], -1)
        return self.out((x * first).mean(1))


class Fourier(Embedded, title="torch.fft.rfft over time"):
    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(torch.fft.rfft(self.embed(sequence), dim=1).abs().mean(1))


class Conditional(Embedded, title="a branch that depends on values (if x.mean() > 0)"):
    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        x = self.embed(sequence).mean(1)
        return self.out(x.relu() if x.mean() > 0 else x.tanh())


class MeanOverTime(Embedded, title="mean_over_time of this project"):
    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(mean_over_time(self.embed(sequence).relu(), lengths, time_axis=1))


class Unknown(Embedded, title="torch.cummax"):
    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        return self.out(self.embed(sequence).cummax(1).values[:, -1])


class Inverse(Embedded, title="torch.linalg.inv"):
    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Any:
        x = self.embed(sequence)
        return self.out(torch.linalg.inv(x.transpose(1, 2) @ x + torch.eye(WIDTH)).mean(1))

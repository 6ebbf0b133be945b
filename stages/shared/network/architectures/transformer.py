"""Transformer encoder (Vaswani et al., 2017), normalising before each part (Xiong et al., 2020)."""

import math

from shared.kit.params import Depth, StageParams, Width
from shared.network.architectures.base import Architecture, Sizes, mean_over_time, steps_like, within

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

LONGEST_WAVE = 10_000  # of the positions, in time steps over 2 pi, as in the paper
UNSEEN = -1e4  # added to the score of a step that must not be seen: exp gives zero, and float16 can hold it


class Transformer(Architecture, name="transformer"):
    """A small encoder, the mean over time of what it gives, and a linear layer on that."""

    class Options(StageParams):
        """Options of the encoder.

        Attributes:
            width: Values that stand for a time step; even, and a multiple of `heads`.
            heads: Ways of looking at the other steps, each `width / heads` wide.
            layers: Blocks of attention and a perceptron on top of each other.
            feedforward_size: Width of the perceptron's hidden layer.
            dropout: Share of the values that each part adds and that is dropped in training.
        """

        width: Width
        heads: Width
        layers: Depth
        feedforward_size: Width
        dropout: float = Field(ge=0, lt=1)

        @model_validator(mode="after")
        def _divides(self) -> "Transformer.Options":
            if self.width % 2 or self.width % self.heads:
                raise ValueError(f"width ({self.width}) should be even and a multiple of heads ({self.heads})")
            return self

    frequencies: Tensor

    def __init__(self, sizes: Sizes, options: Options) -> None:
        super().__init__(sizes, options)
        self.embed = nn.Linear(sizes.features, options.width)
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.layers))
        self.norm = nn.LayerNorm(options.width)
        self.linear = nn.Linear(options.width, sizes.classes)
        exponents = torch.arange(0, options.width, 2) / options.width
        self.register_buffer("frequencies", LONGEST_WAVE**-exponents, persistent=False)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        """See `Architecture`."""
        mask = (
            None
            if lengths is None
            else (~within(sequence.shape[1], lengths)).to(sequence.dtype)[:, None, None, :] * UNSEEN
        )
        x = self.embed(sequence) + self.positions(sequence)
        for block in self.blocks:
            x = block(x, mask)
        logits: Tensor = self.linear(mean_over_time(self.norm(x), lengths, time_axis=1))
        return logits

    def positions(self, sequence: Tensor) -> Tensor:
        """Sines and cosines of each step's number: (time, width)."""
        angles = steps_like(sequence.shape[1], sequence).unsqueeze(1) * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Block(nn.Module):
    """Attention over all steps, then a perceptron at each step; both add to what comes in."""

    def __init__(self, options: Transformer.Options) -> None:
        super().__init__()
        self.heads = options.heads
        self.attention_norm = nn.LayerNorm(options.width)
        self.query_key_value = nn.Linear(options.width, 3 * options.width)
        self.attended = nn.Linear(options.width, options.width)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(options.width),
            nn.Linear(options.width, options.feedforward_size),
            nn.GELU(),
            nn.Linear(options.feedforward_size, options.width),
        )
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, time, width) to the same; `mask` is added to the scores (batch, heads, time, time)."""
        x = x + self.dropout(self.attend(self.attention_norm(x), mask))
        fed: Tensor = self.dropout(self.feedforward(x))
        return x + fed

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Written out, since torch's fast path does not export."""
        query, key, value = (self.split_heads(part) for part in self.query_key_value(x).chunk(3, dim=2))
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        if mask is not None:
            scores = scores + mask
        seen = scores.softmax(dim=3) @ value
        attended: Tensor = self.attended(seen.transpose(1, 2).flatten(2))
        return attended

    def split_heads(self, x: Tensor) -> Tensor:
        """(batch, time, width) to (batch, heads, time, width / heads)."""
        split: Tensor = x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return split

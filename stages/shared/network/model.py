"""The classifier and its checkpoint: everything that an exporter needs to know, in one file.

The classifier is one of `shared/network/architectures/`, behind what every one of them needs: raw values are
standardised, and padding is kept out.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.kit.params import Count, closest
from shared.kit.stage import StageError, check_archive, one_line, reading, write_bytes
from shared.network.architectures import ARCHITECTURES, Sizes
from shared.network.architectures.base import within

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor, nn


class ModelConfig(BaseModel):
    """What the classifier is built from.

    Attributes:
        features: Names of the values at each time step.
        time_steps: Length of a sequence, or of the longest.
        classes: Names of the classes, in the order of the logits.
        ragged: Whether sequences differ in length, and the classifier is given their lengths.
        standardize: Whether the classifier takes raw values and standardises them itself.
        architecture: Its name, of those in `shared/network/architectures/`.
        options: What that architecture is built from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: list[str] = Field(min_length=1)
    time_steps: Count
    classes: list[str] = Field(min_length=2)
    ragged: bool
    standardize: bool
    architecture: str
    options: dict[str, Any]

    @field_validator("architecture")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in ARCHITECTURES:
            raise ValueError(f"{name!r} is none of {', '.join(sorted(ARCHITECTURES))}{closest(name, ARCHITECTURES)}")
        return name

    @property
    def any_time(self) -> bool:
        """Whether the architecture reads sequences of another number of time steps than `time_steps`."""
        return ARCHITECTURES[self.architecture].any_time


class SequenceClassifier(nn.Module):
    """Sequences in, logits out: an architecture, and before it what belongs to the data.

    Raises:
        pydantic.ValidationError: The options are not the architecture's.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if config.standardize:
            self.register_buffer("mean", torch.zeros(len(config.features)))
            self.register_buffer("deviation", torch.ones(len(config.features)))
        architecture = ARCHITECTURES[config.architecture]
        sizes = Sizes(len(config.features), config.time_steps, len(config.classes), config.ragged)
        self.network = architecture(sizes, architecture.Options.model_validate(config.options))

    def set_standardization(self, mean: list[float], deviation: list[float]) -> None:
        """Set what raw values are standardised by; a feature that never varied is only centred."""
        self.mean.copy_(torch.tensor(mean))
        self.deviation.copy_(torch.tensor([value if value > 0 else 1.0 for value in deviation]))

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map sequences (batch, time, features) to logits (batch, classes), both float32.

        Args:
            sequence: Raw values if `config.standardize`.
            lengths: (batch,), int32; given if and only if `config.ragged`. How many steps of each sequence count: what
                comes after them makes no difference, not even NaN. A length below 1 counts as 1, a length above the
                number of steps as that number.
        """
        if self.config.standardize:
            sequence = (sequence - self.mean) / self.deviation
        if lengths is not None:
            counts = within(sequence.shape[1], lengths.clamp(min=1))
            lengths = counts.sum(dim=1, dtype=lengths.dtype)
            sequence = sequence.where(counts.unsqueeze(2), 0)
        logits: Tensor = self.network(sequence, lengths)
        return logits


@dataclass(frozen=True)
class Checkpoint:
    """A trained model (in evaluation mode) and the figures of its training, such as `validation_loss`."""

    model: SequenceClassifier
    training: dict[str, float]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write configuration, weights and training figures; equal content gives equal bytes."""
    content = {
        "config": checkpoint.model.config.model_dump(),
        "training": checkpoint.training,
        "state": {name: tensor.detach().clone() for name, tensor in checkpoint.model.state_dict().items()},
    }
    buffer = io.BytesIO()  # saved to a path, torch would write the file's name into its bytes
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def _restore(config: Any, state: Any) -> SequenceClassifier:
    """Build the classifier that a checkpoint describes and give it its weights.

    It is first built without memory: what a file says of sizes is not trusted before its weights have them.

    Raises:
        ValueError: The weights are not those of that classifier.
    """
    described = ModelConfig.model_validate(config)
    with torch.device("meta"):
        expected = SequenceClassifier(described).state_dict()
    for name, tensor in expected.items():
        if name in state and state[name].untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
            raise ValueError(
                f"{name} has {state[name].untyped_storage().nbytes()} bytes; expected {list(tensor.shape)}"
            )
    if missing := sorted(set(expected) - set(state)):
        raise ValueError(f"it has no {missing[0]}")
    model = SequenceClassifier(described)
    model.load_state_dict(state)
    return model


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without unpickling any code.

    Raises:
        StageError: The file is truncated, holds more than plain data and tensors, or is of another architecture.
    """
    with reading(path, "checkpoint"):
        check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a strange pickle: it is refused anyway
            content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    try:
        model = _restore(content["config"], content["state"])
        training = {str(name): float(figure) for name, figure in content["training"].items()}
    except ValidationError as error:
        raise StageError(f"{path}: a checkpoint of another architecture: {one_line(error)}") from None
    except Exception as error:  # the file is whole, and holds whatever someone put there
        found = f"{type(error).__name__}: {one_line(error)}"
        raise StageError(f"{path}: a checkpoint of another architecture than SequenceClassifier: {found}") from None
    return Checkpoint(model.eval(), training)

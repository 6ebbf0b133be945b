"""The architecture, and its checkpoint: everything that an exporter needs to know, in one file.

To bring another architecture, replace `SequenceClassifier` and `ModelConfig`: the stages only call
`SequenceClassifier(config)`, use `forward` as documented, and save and load checkpoints.
"""

import io
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.stage import StageError, one_line, write_bytes

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn


class ModelConfig(BaseModel):
    """What the architecture is built from.

    Attributes:
        features: Names of the values at each time step.
        time_steps: Length of a sequence.
        classes: Names of the classes, in the order of the logits.
        hidden_size: Width of the LSTM's state.
        layers: LSTM layers on top of each other.
        bidirectional: Whether a second LSTM reads each sequence backwards.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: list[str] = Field(min_length=1)
    time_steps: int = Field(gt=0)
    classes: list[str] = Field(min_length=2)
    hidden_size: int = Field(gt=0)
    layers: int = Field(gt=0)
    bidirectional: bool


class SequenceClassifier(nn.Module):
    """An LSTM that reads the sequence, and a linear layer on its last state."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.lstm = nn.LSTM(
            len(config.features),
            config.hidden_size,
            config.layers,
            batch_first=True,
            bidirectional=config.bidirectional,
        )
        self.linear = nn.Linear(config.hidden_size * (2 if config.bidirectional else 1), len(config.classes))

    def forward(self, sequence: Tensor) -> Tensor:
        """Map sequences (batch, time, features) to logits (batch, classes), both float32.

        The zero initial state stays implicit: written out, exporters bake the traced batch size into it. The last state
        is read from h_n and not from the outputs, which gives the leaner graph in every format.
        """
        _, (h_n, _) = self.lstm(sequence)
        last = torch.cat([h_n[-2], h_n[-1]], dim=1) if self.config.bidirectional else h_n[-1]
        logits: Tensor = self.linear(last)
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


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without unpickling any code.

    Raises:
        StageError: The file is truncated, holds more than plain data and tensors, or is of another architecture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a strange pickle: it is refused anyway
            content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        found = str(error).partition("\n")[0] or "it ends too early"
        raise StageError(f"{path}: not a readable checkpoint: {found}") from None
    try:
        model = SequenceClassifier(ModelConfig.model_validate(content["config"]))
        model.load_state_dict(content["state"])
        training = dict(content["training"])
    except ValidationError as error:
        found = "; ".join(f"config.{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
        raise StageError(f"{path}: a checkpoint of another architecture: {found}") from None
    except (KeyError, TypeError, RuntimeError) as error:
        found = one_line(error)
        raise StageError(f"{path}: a checkpoint of another architecture than SequenceClassifier: {found}") from None
    return Checkpoint(model.eval(), training)

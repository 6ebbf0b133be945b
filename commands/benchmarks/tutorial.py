"""The tutorial's model, which training and latency are measured against."""

import torch
from torch import Tensor, nn


class TutorialModel(nn.Module):
    """The tutorial's model, with its explicit zero state and its last output."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.lstm = nn.LSTM(1, hidden_size, 1, batch_first=True)
        self.linear = nn.Linear(hidden_size, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        h0 = torch.zeros(1, x.size(0), self.hidden_size)
        c0 = torch.zeros(1, x.size(0), self.hidden_size)
        output, _ = self.lstm(x, (h0, c0))
        logits: Tensor = self.linear(output[:, -1, :])
        return logits

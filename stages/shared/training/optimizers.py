"""Gradients in; weights changed in place by Adam, AdamW or SGD."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["adam", "adamw", "sgd"]

ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False}
"""What is chosen for nearly every net, and by the tutorial."""


class Optimizer:
    """Adam, AdamW or SGD by torch's fused kernels: bit for bit what `torch.optim` computes with `fused=True`.

    `torch.optim` around them imports torch's compiler, which is a second of a cold run, and takes a tenth of a
    millisecond of each step. Matrices decay; biases and the scales of a normalisation do not. A parameter without a
    gradient is left alone.

    Args:
        parameters: All that are trained, on the device that they stay on.
        name: `adam` (Kingma and Ba, 2015; the decay is part of the gradient), `adamw` (Loshchilov and Hutter, 2019; it
            is not), `sgd`.
        weight_decay: Of the matrices.
        momentum: Of `sgd`.

    Attributes:
        param_groups: The parameters of each decay, where torch's gradient scaler looks for them.
        learning_rate: Of the next step.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], name: OptimizerName, weight_decay: float, momentum: float
    ) -> None:
        self.name = name
        self.momentum = momentum
        self.learning_rate = 0.0
        # Of gradients, and of their squares; from zero, the first step of `sgd` is along the gradient, as it should be.
        averages = 2 if name != "sgd" else 1 if momentum else 0
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault(weight_decay if parameter.ndim > 1 else 0.0, []).append(parameter)
        self.param_groups: list[dict[str, Any]] = [
            {
                "params": group,
                "weight_decay": decay,
                "averages": [[torch.zeros_like(one) for one in group] for _ in range(averages)],
                "steps": torch.zeros(len(group), device=group[0].device),
            }
            for decay, group in groups.items()
        ]
        for group in self.param_groups:
            group["step_of_each"] = list(group["steps"].unbind())  # views

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change the weights by their gradients."""
        for group in self.param_groups:
            parameters, averages, steps = group["params"], group["averages"], group["step_of_each"]
            gradients = [one.grad for one in parameters]
            used = [index for index, gradient in enumerate(gradients) if gradient is not None]
            if len(used) == len(parameters):
                group["steps"].add_(1)
            else:
                group["steps"][used] += 1
                parameters, gradients, steps, *averages = (
                    [tensors[index] for index in used] for tensors in (parameters, gradients, steps, *averages)
                )
            self._update(parameters, gradients, averages, steps, group["weight_decay"])

    def _update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        averages: list[list[Tensor]],
        steps: list[Tensor],
        weight_decay: float,
    ) -> None:
        how: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": weight_decay, "maximize": False}
        if self.name == "sgd":
            how |= {"momentum": self.momentum, "dampening": 0.0, "nesterov": False, "is_first_step": False}
            torch._fused_sgd_(parameters, gradients, *(averages or [[]]), **how)
        else:
            kernel: Any = torch._fused_adamw_ if self.name == "adamw" else torch._fused_adam_
            kernel(parameters, gradients, averages[0], averages[1], [], steps, **how, **ADAM)

    def state(self) -> list[Tensor]:
        """All that a later process needs to go on from here."""
        return [
            tensor
            for group in self.param_groups
            for tensors in (*group["averages"], [group["steps"]])
            for tensor in tensors
        ]

    def restore(self, state: list[Tensor]) -> None:
        """Go on from a state."""
        for tensor, saved in zip(self.state(), state, strict=True):
            tensor.copy_(saved)

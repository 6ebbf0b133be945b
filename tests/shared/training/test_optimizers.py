"""The optimisers: torch's own, bit for bit."""

from collections.abc import Callable
from typing import Any

from shared.training.optimizers import Optimizer

import pytest
import torch
from torch import Tensor, nn


def make_net() -> nn.ModuleDict:
    torch.manual_seed(0)
    parts = {
        "first": nn.Linear(3, 40),
        "sometimes": nn.Linear(40, 40),
        "last": nn.Linear(40, 2),
        "never": nn.Linear(2, 2),
    }
    return nn.ModuleDict(parts)


def backward(net: nn.ModuleDict, step: int) -> None:
    """A part has no gradient at every third step, another one never has."""
    values = net["first"](torch.randn(20, 3, generator=torch.Generator().manual_seed(step))).tanh()
    if step % 3:
        values = net["sometimes"](values)
    net["last"](values).square().sum().backward()


def groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    return [
        {"params": [one for one in net.parameters() if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in net.parameters() if one.ndim == 1], "weight_decay": 0.0},
    ]


def equal(net: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, net.parameters(), other.parameters()))


@pytest.mark.parametrize(
    ("arguments", "theirs"),
    [
        (("adam", 0.0, 0.0), lambda net: torch.optim.Adam(net.parameters(), fused=True)),
        (("adam", 0.1, 0.0), lambda net: torch.optim.Adam(groups(net, 0.1), fused=True)),
        (("adamw", 0.1, 0.0), lambda net: torch.optim.AdamW(groups(net, 0.1), fused=True)),
        (("sgd", 0.0, 0.0), lambda net: torch.optim.SGD(net.parameters(), fused=True)),
        (("sgd", 0.1, 0.0), lambda net: torch.optim.SGD(groups(net, 0.1), fused=True)),
    ],
)  # fmt: skip
def test_the_weights_are_those_of_torch_s_optimiser(
    arguments: tuple[Any, ...], theirs: Callable[[nn.Module], torch.optim.Optimizer]
) -> None:
    mine, expected = make_net(), make_net()
    optimizer, reference = Optimizer(mine.parameters(), *arguments), theirs(expected)
    for step in range(7):
        optimizer.learning_rate = 0.01 / (step + 1)
        for group in reference.param_groups:
            group["lr"] = 0.01 / (step + 1)
        for net, one in ((mine, optimizer), (expected, reference)):
            one.zero_grad()
            backward(net, step)
            one.step()
        assert equal(mine, expected), f"step {step}"
    assert equal(mine["never"], make_net()["never"])
    assert not equal(mine["sometimes"], make_net()["sometimes"])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_momentum_is_torch_s(weight_decay: float) -> None:
    """Of parameters that have a gradient in each step, or in none."""
    mine, expected = make_net(), make_net()
    optimizer = Optimizer(mine.parameters(), "sgd", weight_decay, 0.9)
    reference = torch.optim.SGD(groups(expected, weight_decay), lr=0.01, momentum=0.9, fused=True)
    optimizer.learning_rate = 0.01
    for _ in range(5):
        for net, one in ((mine, optimizer), (expected, reference)):
            one.zero_grad()
            backward(net, 1)
            one.step()
        assert equal(mine, expected)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_another_optimiser_goes_on_from_the_state(name: Any) -> None:
    net = make_net()
    optimizer = Optimizer(net.parameters(), name, 0.1, 0.9)
    optimizer.learning_rate = 0.01
    for step in range(4):
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()
    other_net = make_net()
    other_net.load_state_dict(net.state_dict())
    other = Optimizer(other_net.parameters(), name, 0.1, 0.9)
    other.restore([tensor.clone() for tensor in optimizer.state()])
    for one, its_net in ((optimizer, net), (other, other_net)):
        one.learning_rate = 0.02
        one.zero_grad()
        backward(its_net, 5)
        one.step()
    assert equal(other_net, net)
    assert all(map(torch.equal, other.state(), optimizer.state()))


def test_the_gradient_scaler_skips_a_step_whose_gradients_are_not_finite() -> None:
    net = make_net()
    optimizer = Optimizer(net.parameters(), "adam", 0.0, 0.0)
    optimizer.learning_rate = 0.01
    scaler: Any = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    step(net["last"](torch.ones(1, 40)).sum() * float("inf"))
    assert equal(net, make_net())
    step(net["last"](torch.ones(1, 40)).sum())
    expected = make_net()
    plain = Optimizer(expected.parameters(), "adam", 0.0, 0.0)
    plain.learning_rate = 0.01
    expected["last"](torch.ones(1, 40)).sum().backward()
    plain.step()
    assert not equal(net, make_net())
    assert equal(net, expected)

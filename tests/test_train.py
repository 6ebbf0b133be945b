"""Training: the tutorial's loop, and its variants."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import train
from shared.data.sequences import Prepared
from shared.kit.stage import StageError
from shared.network.model import SequenceClassifier, load_checkpoint
from shared.training.batches import Batches
from shared.training.devices import ALONE, Processes, check_sharing, choose_device
from tests.support import ROOT, Workspace, architecture, clean_environment

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler

RECIPE: dict[str, Any] = {
    "standardize": False,
    "epochs": 4,
    "batch_size": None,
    "optimizer": "adam",
    "learning_rate": 0.01,
    "schedule": "constant",
    "warmup": 0.0,
    "weight_decay": 0.0,
    "momentum": 0.0,
    "gradient_clip": None,
    "class_weights": None,
    "label_smoothing": 0.0,
    "early_stopping": None,
    "keep": "last",
    "device": "cpu",
    "mixed_precision": None,
    "threads": 1,
    "seed": 0,
    "checkpoint_seconds": 60,
}


def prepared(workspace: Workspace) -> Prepared:
    return Prepared(workspace.folder / "data" / "prepared")


def fit(workspace: Workspace, **changes: Any) -> tuple[SequenceClassifier, list[train.Epoch]]:
    options = {"hidden_size": 8} | {key: changes.pop(key) for key in ("bidirectional", "layers") if key in changes}
    params = train.Params.model_validate(RECIPE | changes)
    return train.train(prepared(workspace), params, architecture("lstm", **options))


def read(data: Prepared, split: Literal["train", "validation"]) -> tuple[Tensor, Tensor]:
    arrays = data.split(split)
    return torch.from_numpy(arrays.sequences), torch.from_numpy(arrays.labels)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.5},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0},
    ]
    return torch.optim.AdamW(groups, lr=0.01)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("changes", "make_optimizer", "loss_options", "clip", "schedule"),
    [
        ({}, adam, {}, None, None),
        ({"optimizer": "adamw", "weight_decay": 0.5}, adamw, {}, None, None),
        ({"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9}, sgd, {}, None, None),
        ({"gradient_clip": 0.05}, adam, {}, 0.05, None),
        ({"class_weights": [1.0, 2.0, 4.0]}, adam, {"weight": torch.tensor([1.0, 2.0, 4.0])}, None, None),
        ({"label_smoothing": 0.2}, adam, {"label_smoothing": 0.2}, None, None),
        ({"schedule": "cosine"}, adam, {}, None, partial(CosineAnnealingLR, T_max=6)),
        ({"schedule": "linear"}, adam, {}, None, partial(LinearLR, start_factor=1, end_factor=0, total_iters=6)),
        ({"schedule": "constant", "warmup": 0.5}, adam, {}, None, partial(LinearLR, start_factor=1 / 3, total_iters=2)),
    ],
    ids=["the tutorial", "adamw", "sgd", "clip", "class weights", "smoothing", "cosine", "linear", "warm-up"],
)
def test_a_full_batch_epoch_is_torch_s_own_step(
    workspace: Workspace,
    changes: dict[str, Any],
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    loss_options: dict[str, Any],
    clip: float | None,
    schedule: Callable[[torch.optim.Optimizer], LRScheduler] | None,
) -> None:
    """Written as the tutorial does, with explicit zero states and the last output."""
    (x, y), (validation_x, validation_y) = (read(prepared(workspace), split) for split in ("train", "validation"))
    _, epochs = fit(workspace, **changes, epochs=6)

    torch.manual_seed(0)
    lstm, linear = nn.LSTM(1, 8, batch_first=True), nn.Linear(8, 3)
    both = nn.ModuleList([lstm, linear])
    optimizer = make_optimizer(both)
    scheduler = schedule(optimizer) if schedule else None
    criterion = nn.CrossEntropyLoss(**loss_options)
    for epoch in epochs:
        outputs, _ = lstm(x, (torch.zeros(1, len(x), 8), torch.zeros(1, len(x), 8)))
        logits = linear(outputs[:, -1])
        plain = cross_entropy(logits.detach(), y)
        optimizer.zero_grad()
        criterion(logits, y).backward()
        if clip:
            nn.utils.clip_grad_norm_(both.parameters(), clip)
        optimizer.step()
        if scheduler:
            scheduler.step()
        with torch.no_grad():
            logits = linear(lstm(validation_x)[0][:, -1])
        assert epoch.train_loss == pytest.approx(plain.item(), rel=1e-5)
        assert epoch.validation_loss == pytest.approx(cross_entropy(logits, validation_y).item(), rel=1e-5)
        assert epoch.validation_accuracy == pytest.approx((logits.argmax(1) == validation_y).float().mean().item())


def test_balanced_class_weights_are_scikit_learn_s(workspace: Workspace) -> None:
    data = prepared(workspace)
    weights = train.weigh_classes("balanced", data.schema)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.asarray(data.split("train").labels))
    assert weights == pytest.approx(expected.tolist())
    empty = data.schema.model_copy(update={"class_rows": {"train": [5, 0, 5]}})
    with pytest.raises(StageError, match="class '1' has no row in the training split"):
        train.weigh_classes("balanced", empty)


def test_the_loss_of_an_epoch_is_the_plain_mean_over_its_rows_whatever_the_optimiser_is_given(
    workspace: Workspace,
) -> None:
    """Weights that hardly move: the mean over uneven batches is that over the split."""
    still = {"optimizer": "sgd", "learning_rate": 1e-12, "class_weights": [1.0, 2.0, 4.0], "label_smoothing": 0.1}
    whole, batches = (fit(workspace, **still, batch_size=size, epochs=1)[1] for size in (None, 63))
    plain = fit(workspace, optimizer="sgd", learning_rate=1e-12, batch_size=None, epochs=1)[1]
    assert batches[0].train_loss == pytest.approx(plain[0].train_loss, rel=1e-6)
    assert whole[0].train_loss == pytest.approx(plain[0].train_loss, rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{}, {"batch_size": 64}, {"schedule": "cosine"}, {"bidirectional": True, "layers": 2}],
    ids=["full batch", "mini-batches", "cosine", "two layers in both directions"],
)
def test_every_variant_learns_and_repeats_itself(workspace: Workspace, changes: dict[str, Any]) -> None:
    model, epochs = fit(workspace, **changes, epochs=10)
    again, repeated = fit(workspace, **changes, epochs=10)
    assert epochs[-1].train_loss < epochs[0].train_loss
    assert not model.training
    assert repeated == epochs
    for first, second in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_the_seed_changes_the_weights(workspace: Workspace) -> None:
    assert fit(workspace)[1] != fit(workspace, seed=1)[1]


def test_mini_batches_of_the_whole_split_are_full_batch(workspace: Workspace) -> None:
    assert fit(workspace, batch_size=100_000)[1] == fit(workspace)[1]


def test_the_learning_rate_rises_during_warm_up_and_falls_to_zero() -> None:
    params = train.Params.model_validate(RECIPE | {"schedule": "cosine", "warmup": 0.1, "learning_rate": 2.0})
    rates = [train.learning_rate(step, 100, params) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


OVERFITTING = {"learning_rate": 0.1, "epochs": 60, "batch_size": 20}


def test_early_stopping_ends_after_its_patience_and_the_best_weights_are_kept(workspace: Workspace) -> None:
    _, every = fit(workspace, **OVERFITTING)
    model, epochs = fit(workspace, **OVERFITTING, early_stopping=5, keep="best")
    best = train.best(epochs)
    assert epochs == every[: best + 6]
    assert epochs[best].validation_loss == min(epoch.validation_loss for epoch in epochs)
    assert len(epochs) < 60

    figures = train.summary(model, epochs, "best")
    assert figures["epochs"] == best + 1
    assert figures["validation_loss"] == pytest.approx(epochs[best].validation_loss, rel=1e-5)
    x, y = read(prepared(workspace), "validation")
    with torch.inference_mode():
        assert cross_entropy(model(x), y).item() == pytest.approx(epochs[best].validation_loss, rel=1e-5)


def test_early_stopping_can_keep_the_last_weights(workspace: Workspace) -> None:
    model, epochs = fit(workspace, **OVERFITTING, early_stopping=5)
    assert train.summary(model, epochs, "last")["epochs"] == len(epochs) == train.best(epochs) + 6
    x, y = read(prepared(workspace), "validation")
    with torch.inference_mode():
        assert cross_entropy(model(x), y).item() == pytest.approx(epochs[-1].validation_loss, rel=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_loses_little(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """On the CPU, which is refused otherwise: it gains no time, and has no LSTM in these precisions."""
    monkeypatch.setattr(train, "check_hardware", lambda *_: None)
    recipe = train.Params.model_validate(RECIPE | {"batch_size": 50, "epochs": 12, "learning_rate": 0.001})
    _, full = train.train(prepared(workspace), recipe, architecture("mlp"))
    mixed_recipe = recipe.model_copy(update={"mixed_precision": precision})
    _, mixed = train.train(prepared(workspace), mixed_recipe, architecture("mlp"))
    assert mixed != full
    assert mixed[-1].validation_loss == pytest.approx(full[-1].validation_loss, rel=0.02)


@pytest.mark.parametrize(
    ("name", "cuda", "mps", "expected"),
    [
        ("auto", True, False, "cuda"),
        ("auto", False, True, "mps"),
        ("auto", False, False, "cpu"),
        ("cpu", True, True, "cpu"),
        ("mps", True, True, "mps"),
    ],
)  # fmt: skip
def test_the_device_is_the_best_or_the_one_that_is_asked_for(name: Any, cuda: bool, mps: bool, expected: str) -> None:
    assert choose_device(name, cuda=cuda, mps=mps) == expected


def test_processes_that_cannot_share_are_refused(workspace: Workspace) -> None:
    with pytest.raises(StageError, match="several processes cannot share train"):
        check_sharing("mps", 0, 0)
    with pytest.raises(StageError, match=r"process 3 on a machine with 2 GPU\(s\): start at most one for each"):
        check_sharing("cuda", 2, 2)
    check_sharing("cuda", 1, 2)
    check_sharing("cpu", 7, 0)
    params = train.Params.model_validate(RECIPE | {"batch_size": 3})
    with pytest.raises(StageError, match=r"4 processes cannot share batches of 3 rows \(train.batch_size\)"):
        train.train(prepared(workspace), params, architecture("lstm"), Processes(ALONE.device, rank=0, count=4))


def test_shapes_follow_the_configuration(workspace: Workspace) -> None:
    model, _ = fit(workspace, bidirectional=True, layers=2, epochs=1)
    assert model(torch.zeros(5, 6, 1)).shape == (5, 3)
    rnn, linear = model.get_submodule("network.rnn"), model.get_submodule("network.linear")
    assert [rnn.num_layers, rnn.bidirectional, linear.in_features] == [2, True, 16]


class Frozen(nn.Dropout):
    """Drops nothing, even in training."""

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


@pytest.mark.parametrize("part", [nn.Dropout, Frozen])
def test_validation_switches_every_part_as_its_own_train_does(workspace: Workspace, part: type[nn.Dropout]) -> None:
    data = prepared(workspace)
    model = train.build(data.schema, train.Params.model_validate(RECIPE), architecture("lstm"))
    model.network.dropout = part(0.5)
    found: dict[bool, list[bool]] = {}
    model.register_forward_hook(lambda *_: found.update({False: [module.training for module in model.modules()]}))
    batches = Batches(data.split("validation"), train.VALIDATION_ROWS, ALONE, seed=None)
    train.validate(model, batches, ALONE)
    found[True] = [module.training for module in model.modules()]
    for training, modes in found.items():
        model.train(training)
        assert modes == [module.training for module in model.modules()]
        assert modes.count(not training) == (training and part is Frozen)
    assert found.keys() == {False, True}


def test_the_files_agree_with_each_other(workspace: Workspace) -> None:
    figures = json.loads((workspace.folder / "metrics" / "train.json").read_text())
    loss = pd.read_csv(workspace.folder / "metrics" / "loss.csv")
    checkpoint = load_checkpoint(workspace.folder / "models" / "pytorch" / "classifier.pt")
    assert list(loss["epoch"]) == list(range(1, 21))
    assert figures["epochs"] == 20
    assert figures["validation_loss"] == loss["validation_loss"].iloc[-1]
    assert figures["train_loss"] == loss["train_loss"].iloc[-1]
    assert figures["weights"] == 10753
    assert checkpoint.training == figures
    assert checkpoint.model.config.classes == ["0", "1", "2"]


def test_the_stage_does_not_import_torch_s_compiler(workspace: Workspace) -> None:
    """A second of every cold run, which `torch.optim` and `torch.use_deterministic_algorithms` take."""
    outputs = [str(workspace.folder / name) for name in ("classifier.pt", "train.json", "loss.csv")]
    code = "import sys, train; train.main(); sys.exit('torch._dynamo' in sys.modules)"
    environment = clean_environment() | {"PYTHONPATH": str(ROOT / "stages")}
    command = [sys.executable, "-c", code, "data/prepared", *outputs]
    subprocess.run(command, cwd=workspace.folder, env=environment, check=True, capture_output=True)

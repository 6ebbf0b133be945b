"""Training: the tutorial's loop, and its variants."""

import json
from typing import Any

import train
from shared.model import SequenceClassifier, load_checkpoint
from shared.sequences import Prepared
from tests.support import Workspace, architecture

import pandas as pd
import pytest
import torch
from torch import nn

RECIPE = {
    "standardize": False,
    "epochs": 4,
    "batch_size": None,
    "learning_rate": 0.01,
    "schedule": "constant",
    "threads": 1,
    "seed": 0,
}


def fit(workspace: Workspace, **changes: Any) -> tuple[SequenceClassifier, list[train.Epoch]]:
    options = {"hidden_size": 8} | {key: changes.pop(key) for key in ("bidirectional", "layers") if key in changes}
    params = train.Params.model_validate(RECIPE | changes)
    return train.train(Prepared(workspace.folder / "data" / "prepared"), params, architecture("lstm", **options))


def test_a_full_batch_epoch_is_the_tutorial_s_own_step(workspace: Workspace) -> None:
    data = Prepared(workspace.folder / "data" / "prepared")
    (x, y), (validation_x, validation_y) = (
        (torch.from_numpy(arrays.sequences), torch.from_numpy(arrays.labels))
        for arrays in (data.split("train"), data.split("validation"))
    )
    _, epochs = fit(workspace)

    torch.manual_seed(0)
    lstm, linear = nn.LSTM(1, 8, batch_first=True), nn.Linear(8, 3)
    optimizer = torch.optim.Adam([*lstm.parameters(), *linear.parameters()], lr=0.01)
    criterion = nn.CrossEntropyLoss()
    for epoch in epochs:
        outputs, _ = lstm(x, (torch.zeros(1, len(x), 8), torch.zeros(1, len(x), 8)))
        loss = criterion(linear(outputs[:, -1]), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            logits = linear(lstm(validation_x)[0][:, -1])
        assert epoch.train_loss == pytest.approx(loss.item(), rel=1e-5)
        assert epoch.validation_loss == pytest.approx(criterion(logits, validation_y).item(), rel=1e-5)
        assert epoch.validation_accuracy == pytest.approx((logits.argmax(1) == validation_y).float().mean().item())


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


def test_the_cosine_schedule_starts_at_the_learning_rate_and_ends_near_zero(workspace: Workspace) -> None:
    constant, cosine = (fit(workspace, epochs=20, schedule=schedule)[1] for schedule in ("constant", "cosine"))
    assert cosine[0] == constant[0]

    def last_step(epochs: list[train.Epoch]) -> float:
        return abs(epochs[-1].validation_loss - epochs[-2].validation_loss)

    assert last_step(cosine) < 0.1 * last_step(constant)


def test_shapes_follow_the_configuration(workspace: Workspace) -> None:
    model, _ = fit(workspace, bidirectional=True, layers=2, epochs=1)
    assert model(torch.zeros(5, 6, 1)).shape == (5, 3)
    rnn, linear = model.get_submodule("network.rnn"), model.get_submodule("network.linear")
    assert [rnn.num_layers, rnn.bidirectional, linear.in_features] == [2, True, 16]


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

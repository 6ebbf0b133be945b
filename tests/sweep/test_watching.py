"""When a training is ended before its time: as Optuna's pruner would, by what is told to the worker."""

import random
from pathlib import Path

from commands.sweeps.watching import falls_behind, from_text, limits_from, read_losses, to_text
from tests.sweep.conftest import NEEDS_RAY

import pytest


def curve(generator: random.Random, epochs: int) -> list[float]:
    """Losses that mostly fall."""
    end = generator.uniform(0.1, 1.0)
    return [end + (1.5 - end) * 0.8**epoch + generator.uniform(0, 0.1) for epoch in range(epochs)]


@NEEDS_RAY
@pytest.mark.parametrize(("trials", "epochs"), [(1, 0), (5, 0), (5, 12)])
def test_the_rule_is_that_of_optunas_median_pruner(trials: int, epochs: int) -> None:
    import optuna

    generator = random.Random(5)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=trials, n_warmup_steps=epochs + 1)  # steps count from 1 here
    study = optuna.create_study(direction="minimize", pruner=pruner)
    complete: list[list[float]] = []
    ended = 0
    for _ in range(60):
        losses = curve(generator, generator.choice([20, 30]))
        limits = from_text(to_text(limits_from(complete, trials, epochs))) if len(complete) >= trials else {}
        trial = study.ask()
        for number, loss in enumerate(losses, 1):
            trial.report(loss, number)
            behind = falls_behind(losses[:number], limits)
            assert trial.should_prune() == (behind is not None)
            if behind:
                ended += 1
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            complete.append(losses)
            study.tell(trial, losses[-1])
    assert len(complete) > trials
    assert ended > 10


def test_a_long_training_is_looked_at_a_hundred_times() -> None:
    limits = limits_from([[1.0] * 12_345], 1, 0)
    assert 100 <= len(limits) <= 101
    assert len(to_text(limits)) < 2000


def test_a_line_that_is_being_written_is_not_read() -> None:
    table = "epoch,train_loss,validation_loss\n1,1.5,1.25\n2,0.5,0.75\n"
    assert read_losses(table) == [1.25, 0.75]
    for length in range(len(table)):
        assert (
            read_losses(table[:length])
            == [1.25, 0.75][: table[:length].count("\n") - 1 if "\n" in table[:length] else 0]
        )
    assert falls_behind([], {1: 0.5}) is None


def test_train_writes_its_losses_beside_their_place_as_it_goes(tmp_path: Path) -> None:
    from train import Epoch, loss_table

    place = tmp_path / "loss.csv"
    with loss_table(place) as told:
        for number in (1, 2):
            told(number, Epoch(1 / 3, 0.5 / number, 0.9))
            [beside] = tmp_path.glob(".loss.csv.unfinished/new/loss.csv")
            assert read_losses(beside.read_text()) == [0.5, 0.25][:number]
            assert not place.exists()
    assert place.read_text() == "epoch,train_loss,validation_loss\n1,0.333333,0.5\n2,0.333333,0.25\n"
    assert list(tmp_path.iterdir()) == [place]

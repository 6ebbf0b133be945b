"""The speed benchmark: what it judges, and when it refuses to."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import train
from commands.benchmarks import pipeline, seeds, threads, training
from commands.benchmarks.judging import figure, print_ratio, ratio
from shared.data.sequences import Prepared
from shared.kit.params import read_params
from tests.support import Workspace, architecture

import numpy as np
import pytest
import torch


def test_the_median_decides_where_the_rounds_agree() -> None:
    steady = figure([0.99, 1.0, 1.0, 1.0, 1.01])
    assert steady.verdict(1.02) == "met"
    assert steady.verdict(0.98) == "NOT met"
    assert steady.verdict(0.98, at_least=True) == "met"
    assert steady.verdict(1.02, at_least=True) == "NOT met"


def test_a_target_inside_widely_spread_rounds_is_not_judged() -> None:
    noisy = figure([0.5, 0.8, 1.0, 1.2, 1.5])
    assert (
        noisy.verdict(1.1)
        == noisy.verdict(1.1, at_least=True)
        == "noisy: the middle half of the rounds is 0.80 to 1.20"
    )


def test_a_target_far_from_widely_spread_rounds_is_judged() -> None:
    noisy = figure([0.5, 0.8, 1.0, 1.2, 1.5])
    assert noisy.verdict(2.0) == "met"
    assert noisy.verdict(0.4) == "NOT met"


def test_a_ratio_is_taken_within_each_round(capsys: pytest.CaptureFixture[str]) -> None:
    slow_moment = [np.array([1.0]), np.array([10.0]), np.array([1.0])]
    hits_both = [np.array([2.0]), np.array([20.0]), np.array([2.0])]
    print_ratio("ours / other", ratio(slow_moment, hits_both), 0.6)
    assert capsys.readouterr().out == "  ours / other: 0.50 (0.50 to 0.50)   target 0.6: met\n"
    print_ratio("ours / other", ratio(slow_moment, hits_both))
    assert capsys.readouterr().out == "  ours / other: 0.50 (0.50 to 0.50)\n"


def test_the_pipeline_that_dvc_is_measured_by_runs_every_stage_once(tmp_path: Path) -> None:
    copies = pipeline.make_copies(tmp_path / "copies", 3)
    started = pipeline.reproduce(copies)
    assert [name for name, _ in started] == ["copy_0", "copy_1", "copy_2"]
    assert (copies / "2").read_text() == (copies / "original").read_text()
    assert pipeline.reproduce(copies) == []


def test_the_first_seed_of_the_table_is_the_pipeline_s_own_run(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.patch.chdir(workspace.folder)
    workspace.patch.setattr(seeds, "SEEDS", range(2))
    seeds.bench(workspace.folder)
    _, first, second, mean, spread = capsys.readouterr().out.strip().split("\n")[1:]
    figures = json.loads((workspace.folder / "metrics" / "evaluate.json").read_bytes())["pytorch"]["fp32"]
    number, accuracy, macro_f1, own_accuracy, own_macro_f1 = first.split()
    assert number == "0"
    assert float(accuracy) == pytest.approx(figures["accuracy"], abs=1e-4)
    assert float(macro_f1) == pytest.approx(figures["macro_f1"], abs=1e-4)
    assert [accuracy, macro_f1] != [own_accuracy, own_macro_f1]
    assert second.split()[1:] != first.split()[1:]
    assert float(mean.split()[1]) == pytest.approx((float(accuracy) + float(second.split()[1])) / 2, abs=1e-4)
    assert spread.split()[1:4:2] == sorted([accuracy, second.split()[1]])


def test_the_summary_is_that_of_a_sample() -> None:
    rows = list(seeds.summary([[0.9, 0.92, 0.97]]))
    assert rows == [["mean", "0.9300 ± 0.0361"], ["range", "0.9000 to 0.9700"]]


def test_the_stopwatch_counts_nets_losses_and_gradients_alone(workspace: Workspace) -> None:
    workspace.patch.chdir(workspace.folder)
    data = Prepared(workspace.folder / "data" / "prepared")
    stage: Any = train
    before = stage.cross_entropy
    with training.stopwatch() as inside:
        assert inside() == 0
        model = train.build(data.schema, read_params("train", train.Params), architecture())
        assert inside() == 0
        logits = model(torch.tensor(data.split("train").sequences))
        forward = inside()
        loss = stage.cross_entropy(logits, torch.tensor(data.split("train").labels))
        loss_too = inside()
        loss.backward()
    assert 0 < forward < loss_too < inside()
    assert stage.cross_entropy is before


@pytest.mark.parametrize("processes", [1, 2])
def test_every_case_of_threads_and_processes_is_timed(workspace: Workspace, processes: int) -> None:
    workspace.patch.chdir(workspace.folder)
    folder = workspace.folder / "few"
    training.repeat_rows(Prepared(workspace.folder / "data" / "prepared"), folder, 64)
    speeds = threads.measure([folder, folder], processes)
    ways = [way for way, (count, _) in threads.WAYS.items() if count == processes]
    assert list(speeds) == [
        (hidden_size, batch_size, way)
        for hidden_size in threads.HIDDEN_SIZES
        for batch_size in threads.BATCH_SIZES
        for way in ways
    ]
    assert min(speeds.values()) > 0


def test_the_fastest_way_is_marked() -> None:
    cases = [threads.Case(*case) for case in product(threads.HIDDEN_SIZES, threads.BATCH_SIZES, threads.WAYS)]
    speeds = {case: figure([1000.0]) for case in cases} | {threads.Case(50, 256, "2 threads"): figure([2000.0])}
    first = threads.draw(speeds).split("\n")[1]
    assert first.split() == ["50", "256", "1,000", "*2,000", "1,000"]


def test_rows_are_repeated_as_often_as_it_takes(workspace: Workspace) -> None:
    prepared = Prepared(workspace.folder / "data" / "prepared")
    test = prepared.split("test")
    more = training.repeat_rows(prepared, workspace.folder / "more", len(test.labels) + 5)
    assert more.schema.rows == {"train": len(test.labels) + 5, "validation": (len(test.labels) + 5) // 100, "test": 1}
    assert np.array_equal(more.split("train").sequences[-5:], test.sequences[:5])
    assert np.array_equal(more.split("train").labels[:-5], test.labels)

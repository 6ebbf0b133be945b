"""The scale benchmark: it runs every stage, after those it reads from, and judges the figures."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from commands.bench_scale import Usage, judge, measure, print_table, stage_commands
from tests.support import Project

import pytest


def test_every_stage_has_its_turn_after_those_that_it_reads_from(make_project: Callable[[str], Project]) -> None:
    project = make_project("scale")
    order = list(stage_commands(project.folder))
    assert sorted(order) == sorted(line.split()[0] for line in project.dvc("stage", "list").splitlines())
    for before, after in (("generate", "prepare"), ("prepare", "train"), ("export_onnx", "predict@onnx")):
        assert order.index(before) < order.index(after)


def test_time_and_peak_memory_are_those_of_the_command(
    make_project: Callable[[str], Project], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_project("scale").folder
    # From a small process, as in the benchmark: what is resident in this one would count.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        usage = pool.submit(
            measure, "python -c 'import time; data = b\"x\" * 500_000_000; time.sleep(0.2)'", folder
        ).result()
        pool.submit(measure, "python stages/prepare.py data/none.csv out", folder).result()
    assert usage.seconds > 0.2
    assert 500 < usage.memory < 540
    assert "prepare: error: data/none.csv: no such file" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("large", "verdicts"),
    [
        (Usage(10, 210), {"met": 4}),
        (Usage(13, 210), {"met": 3, "NOT met": 1}),
        (Usage(10, 1010), {"met": 2, "NOT met": 2}),
        (Usage(60, 210), {"met": 2, "NOT met": 2}),
    ],
)
def test_the_figures_are_held_to_the_targets(
    capsys: pytest.CaptureFixture[str], large: Usage, verdicts: dict[str, int]
) -> None:
    usages = {1_000_000: {"prepare": Usage(1, 200)}, 10_000_000: {"prepare": large}}
    print_table(usages)
    judge(usages)
    printed = capsys.readouterr().out
    for verdict, count in verdicts.items():
        assert printed.count(f": {verdict}\n") == count

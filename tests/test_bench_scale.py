"""The scale benchmark: it runs every stage, after those it reads from, and judges the figures."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from commands.bench_scale import Usage, judge, print_table, stage_commands
from tests.support import ROOT, Project

import pytest


def test_every_stage_has_its_turn_after_those_that_it_reads_from(make_project: Callable[[str], Project]) -> None:
    project = make_project("scale")
    order = list(stage_commands(project.folder))
    assert sorted(order) == sorted(line.split()[0] for line in project.dvc("stage", "list").splitlines())
    for before, after in (("generate", "prepare"), ("prepare", "train"), ("export_onnx", "predict@onnx")):
        assert order.index(before) < order.index(after)


def test_time_and_peak_memory_are_those_of_the_command(tmp_path: Path) -> None:
    # In a process of its own, because what is resident in this one would count.
    script = f"""
from pathlib import Path
from commands.bench_scale import measure
for code in ("import time; data = b'x' * 500_000_000; time.sleep(0.2)", "raise SystemExit('what went wrong')"):
    usage = measure(f'python -c "{{code}}"', Path({str(tmp_path)!r}))
    print(usage.seconds, usage.memory)
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, memory = map(float, run.stdout.splitlines()[0].split())
    assert seconds > 0.2
    assert 500 < memory < 540
    assert run.stderr == "  what went wrong\n"


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

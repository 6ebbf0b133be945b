"""A fixed sample of Apple's own op tests, one per op and per test class, runs against the evaluator."""

import json
import subprocess
import sys
from pathlib import Path

APPLE_TESTS = Path(__file__).parent / "apple_tests"


def test_apples_own_tests_pass_on_the_sample(tmp_path: Path) -> None:
    sample = (APPLE_TESTS / "sample.txt").read_text().splitlines()
    results = tmp_path / "cases.jsonl"

    finished = subprocess.run(
        [sys.executable, APPLE_TESTS / "run.py", "--ids", APPLE_TESTS / "sample.txt", "--results", results],
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-4000:]
    cases = [json.loads(line) for line in results.read_text().splitlines()]
    assert sorted(case["id"] for case in cases) == sorted(sample)
    assert {case["status"] for case in cases} == {"passed"}
    assert all(case["predictions"] and case["comparisons"] for case in cases)
    assert len(set().union(*(case["ops"] for case in cases))) >= 150

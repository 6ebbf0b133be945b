"""Measure sweeps on this machine: `make bench-sweep`. Everything in one run, so that its ratios hold on a busy machine.

A copy of the project, with small data and nothing compressed, is reproduced once; then the same trials run

- by `commands/sweep.py` with one job and with two,
- by DVC's own queue, `dvc queue start -j 2`,

each on a cache of its own that holds the reproduced run. After that: trials of which every stage is in the run cache,
which leaves DVC's own work; and the same sweep with and without an early stop.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PROJECT = Path(__file__).resolve().parents[1]
RATES = [0.002, 0.004, 0.006, 0.008]
SMALL: dict[str, dict[str, Any]] = {
    "generate": {"rows": 2000},
    "train": {"epochs": 40},
    "compress_onnx": {"variants": []},
    "compress_coreml": {"variants": []},
}
OBJECTIVES = [{"metric": "evaluate.onnx.fp32.accuracy", "better": "higher"}]
GRID = {"sampler": "grid", "parameters": {"train.learning_rate": {"choices": RATES}}, "objectives": OBJECTIVES}
QUEUE_SECONDS = 1800
TARGET = 1.5


def run(folder: Path, *command: str) -> str:
    """Run a command in a folder; return what it printed.

    Raises:
        SystemExit: It failed.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        sys.exit(f"bench_sweep: error: {' '.join(command)}: {result.stdout}{result.stderr}")
    return result.stdout


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC."""
    return run(folder, sys.executable, "-m", "dvc", *arguments)


def commit(folder: Path) -> None:
    """Commit everything, or an empty commit: trials of another revision have other names."""
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--allow-empty", "--message", "bench")


def make_project(folder: Path) -> None:
    """Copy what Git has of this project, make it small, and reproduce what every trial has in common."""
    folder.mkdir()
    for name in run(PROJECT, "git", "ls-files", "-z").rstrip("\0").split("\0"):
        if name.startswith(("metrics/", "tests/")) or name == "dvc.lock" or not (PROJECT / name).is_file():
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, folder / name)
    yaml = YAML(typ="safe")
    params = yaml.load(folder / "params.yaml")
    for section, values in SMALL.items():
        params[section] |= values
    yaml.default_flow_style = False
    yaml.dump(params, folder / "params.yaml")
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "config", "user.name", "bench")
    run(folder, "git", "config", "user.email", "bench@localhost")
    commit(folder)
    dvc(folder, "repro", "evaluate")
    commit(folder)


def sweep(folder: Path, jobs: int, **space: Any) -> tuple[float, list[dict[str, Any]]]:
    """Run a sweep; return the seconds that it took, and what its journal keeps of each trial."""
    file = folder / "sweeps" / "bench.yaml"
    file.write_text(json.dumps(space))
    commit(folder)
    shutil.rmtree(folder / "sweeps" / "bench", ignore_errors=True)
    before = time.perf_counter()
    run(folder, sys.executable, "commands/sweep.py", str(file), "--jobs", str(jobs))
    seconds = time.perf_counter() - before
    trials: dict[int, dict[str, Any]] = {}
    for line in (folder / "sweeps" / "bench" / "journal.log").read_text().splitlines():
        entry = json.loads(line)
        if "user_attr" in entry:
            trials.setdefault(entry["trial_id"], {}).update(entry["user_attr"])
    return seconds, list(trials.values())


def queue(folder: Path) -> float:
    """Run the same trials by DVC's own queue with two workers; return the seconds that they took."""
    before = time.perf_counter()
    rates = ",".join(map(str, RATES))
    dvc(folder, "exp", "run", "--queue", "--set-param", f"train.learning_rate={rates}", "evaluate")
    dvc(folder, "queue", "start", "--jobs", "2")
    while True:
        status = dvc(folder, "queue", "status")
        if status.count("Success") + status.count("Failed") == len(RATES):
            break
        if time.perf_counter() - before > QUEUE_SECONDS:
            sys.exit(f"bench_sweep: error: dvc queue: not ready after {QUEUE_SECONDS} s:\n{status}")
        time.sleep(0.5)
    seconds = time.perf_counter() - before
    dvc(folder, "queue", "stop")
    if "Failed" in status:
        sys.exit(f"bench_sweep: error: dvc queue: a trial failed:\n{status}")
    return seconds


def ran(trials: list[dict[str, Any]]) -> dict[str, int]:
    """How often each stage was really executed."""
    counts: dict[str, int] = {}
    for trial in trials:
        for stage in trial.get("ran", []):
            counts[stage] = counts.get(stage, 0) + 1
    return counts


def main() -> None:
    """Measure, and print."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        make_project(base)
        minutes: dict[str, float] = {}
        kept: dict[str, list[dict[str, Any]]] = {}
        print(f"{len(RATES)} trials of one learning rate each, {os.cpu_count()} cores\n\nTrials a minute", flush=True)
        for title, jobs in (("sweep.py --jobs 1", 1), ("sweep.py --jobs 2", 2), ("dvc queue start -j 2", 0)):
            folder = Path(name) / "project"
            shutil.copytree(base, folder, symlinks=True)
            seconds, kept[title] = sweep(folder, jobs, **GRID) if jobs else (queue(folder), [])
            minutes[title] = 60 * len(RATES) / seconds
            print(f"  {title:<22} {minutes[title]:5.1f}", flush=True)
            if jobs != 2:
                shutil.rmtree(folder)
            else:
                folder.rename(Path(name) / "done")
        ratio = minutes["sweep.py --jobs 2"] / minutes["dvc queue start -j 2"]
        print(f"  sweep.py / queue: {ratio:.2f}   target {TARGET}: {'met' if ratio >= TARGET else 'NOT met'}")

        print("\nHow often each stage really ran, --jobs 2")
        for stage, count in ran(kept["sweep.py --jobs 2"]).items():
            print(f"  {stage:<22} {count:5}")

        done = Path(name) / "done"
        _, again = sweep(done, 1, **GRID)
        assert not ran(again), "every stage is in the run cache"
        print("\nA trial of which nothing runs: all that DVC, Git and the clone take")
        print(f"  {sum(trial['seconds'] for trial in again) / len(again):.1f} s, of which in DVC's process on the CPU")
        print(f"  {sum(trial['cpu_seconds'] for trial in again) / len(again):.1f} s   target 3 s")

        rates = {"train.learning_rate": {"choices": [0.003, 1e-6, 2e-6, 3e-6]}}
        stop = {"metric": "train.validation_accuracy", "better": "higher", "within": 0.05}
        shutil.copytree(base, Path(name) / "early", symlinks=True)
        whole, _ = sweep(done, 1, **GRID | {"parameters": rates})
        early, trials = sweep(Path(name) / "early", 1, **GRID | {"parameters": rates, "early_stop": stop})
        stopped = sum("evaluate" not in trial.get("ran", ["evaluate"]) for trial in trials)
        print(f"\nEarly answers: {stopped} of {len(trials)} trials stop after train")
        print(f"  all stages   {whole:6.1f} s\n  early stop   {early:6.1f} s   saved {1 - early / whole:.0%}")


if __name__ == "__main__":
    main()

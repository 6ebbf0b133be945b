"""Measure sweeps on this machine: `make bench-sweep`, some minutes. Everything in one run, for the ratios' sake.

In a copy of the project with few rows, which has been trained once:

- trials of one learning rate each, `train` and what it needs: by `commands/sweep.py` with one job and with two, and by
  DVC's own queue with two workers, in turns; the times are those of the whole commands, Ray's start included;
- how often each stage really runs where trials have a net in common;
- what a trial costs that stops after `train`, beside one that runs on;
- what a sweep saves whose trainings take long and are ended when they fall behind, and whether it finds the same best;
- what DVC takes beyond the stages: a trial whose every stage is in the run cache, in one process as the sweep runs it,
  and by DVC's commands.

What has a target is judged by the rounds' median: `met`, `NOT met`, or `noisy`.
"""

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "stages"), str(PROJECT)]

from commands.benchmarks.judging import figure, load_in_words, print_ratio  # noqa: E402 - after the path to it
from commands.benchmarks.surroundings import environment, machine_in_words  # noqa: E402

import psutil  # noqa: E402
from ruamel.yaml import YAML  # noqa: E402

SMALL: dict[str, dict[str, Any]] = {
    "generate": {"rows": 1000},
    "train": {"epochs": 40},
    "compress_onnx": {"variants": []},
    "compress_coreml": {"variants": []},
    "compress_coreai": {"variants": []},
}
LONG: dict[str, Any] = {"train.epochs": 600}
LONG_RATES = [0.003, 0.01, 0.001, 0.0001, 0.00003]
TRIALS = 4
QUEUE_SECONDS = 600
START_SECONDS = 5  # before which a worker of the queue may not be seen
OURS, THEIRS = "sweep.py --jobs 2", "dvc queue start -j 2"
RATIO_TARGET = 1.5
SECONDS_TARGET = 3.0
NET = "train.validation_accuracy"
LOSS = "loss.validation_loss"
FILE = "evaluate.onnx.fp32.accuracy"


def run(folder: Path, *command: str) -> str:
    """Run a command in a folder; return what it printed.

    Raises:
        SystemExit: It failed.
    """
    result = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
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
    """Copy what Git has of this project, make it small, and train it once: what every trial has in common is there."""
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
    dvc(folder, "repro", "train")
    commit(folder)


def sweep(folder: Path, jobs: int, parameters: dict[str, list[Any]], **space: Any) -> list[dict[str, Any]]:
    """Run a grid by `sweep.py`; return what its journal keeps of each trial."""
    file = folder / "sweeps" / "bench.yaml"
    choices = {key: {"choices": values} for key, values in parameters.items()}
    file.write_text(json.dumps({"sampler": "grid", "parameters": choices} | space))
    commit(folder)
    shutil.rmtree(folder / "sweeps" / "bench", ignore_errors=True)
    run(folder, sys.executable, "commands/sweep.py", str(file), "--jobs", str(jobs))
    trials: dict[int, dict[str, Any]] = {}
    for line in (folder / "sweeps" / "bench" / "journal.log").read_text().splitlines():
        entry = json.loads(line)
        if "user_attr" in entry:
            trials.setdefault(entry["trial_id"], {}).update(entry["user_attr"])
    return list(trials.values())


def queue(folder: Path, rates: list[float]) -> None:
    """Run trials by DVC's own queue with two workers.

    It is watched by Git and by its workers' processes: `dvc queue status` would take half a core from the trials. Where
    both workers have ended with trials left, as they do at times, two more are started.

    Raises:
        SystemExit: It takes too long.
    """
    start = time.perf_counter()
    before = len(experiments(folder))
    dvc(folder, "exp", "run", "--queue", "--set-param", f"train.learning_rate={','.join(map(str, rates))}", "train")
    while len(experiments(folder)) < before + len(rates):
        if time.perf_counter() - start > QUEUE_SECONDS:
            status = dvc(folder, "queue", "status")
            dvc(folder, "queue", "stop", "--kill")
            sys.exit(f"bench_sweep: error: dvc queue: not ready:\n{status}")
        if not workers(folder):
            dvc(folder, "queue", "start", "--jobs", "2")
            time.sleep(START_SECONDS)
        time.sleep(0.2)
    dvc(folder, "queue", "stop")
    dvc(folder, "queue", "remove", "--all")


def experiments(folder: Path) -> list[str]:
    """Those that are finished; the queue keeps its own below `celery` and `exec`."""
    names = run(folder, "git", "for-each-ref", "--format=%(refname)", "refs/exps")
    return re.findall(r"^refs/exps/\w\w/.+$", names, re.MULTILINE)


def workers(folder: Path) -> list[int]:
    """The process ids of the queue's workers that are up."""
    files = (folder / ".dvc" / "tmp" / "exps" / "celery").glob("*.pid")
    return [number for number in (int(file.read_text()) for file in files) if psutil.pid_exists(number)]


def objective(metric: str) -> dict[str, Any]:
    """What makes a grid of a figure."""
    return {"objectives": [{"metric": metric, "better": "higher"}]}


def seconds_of(work: Callable[[], object]) -> float:
    """How long something takes."""
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def cpu_seconds_of(work: Callable[[], object]) -> float:
    """How long the processes that something starts compute: nearly the same on a busy machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_rates(folder: Path, rounds: int) -> None:
    """Print trials a minute, in turns; no two trials of all of them train alike."""
    runs: dict[str, Callable[[list[float]], object]] = {
        "sweep.py --jobs 1": lambda rates: sweep(folder, 1, {"train.learning_rate": rates}, **objective(NET)),
        OURS: lambda rates: sweep(folder, 2, {"train.learning_rate": rates}, **objective(NET)),
        THEIRS: lambda rates: queue(folder, rates),
    }
    found: dict[str, list[float]] = {title: [] for title in runs}
    for turn in range(rounds):
        for place, (title, work) in enumerate(runs.items()):
            first = 200 + TRIALS * (len(runs) * turn + place)
            rates = [(first + number) / 1e5 for number in range(TRIALS)]
            found[title].append(60 * TRIALS / seconds_of(lambda work=work, rates=rates: work(rates)))  # type: ignore[misc]
    print(f"\nTrials a minute: {TRIALS} trials of `train`, {rounds} rounds in turns")
    for title, each in found.items():
        print(f"  {title:<22} {figure(each).median:5.1f}")
    ratios = [ours / theirs for ours, theirs in zip(found[OURS], found[THEIRS], strict=True)]
    print_ratio(f"{OURS} / {THEIRS}", figure(ratios), RATIO_TARGET, at_least=True)


def count_stages(folder: Path) -> None:
    """Print how often each stage ran in four trials that have two nets, and all data, in common."""
    parameters: dict[str, list[Any]] = {"train.learning_rate": [0.011, 0.012], "export.version": ["1.0.0", "2.0.0"]}
    trials = sweep(folder, 2, parameters, stages=["export_onnx"], **objective(NET))
    counts = Counter(stage for trial in trials for stage in trial.get("ran", []))
    print(f"\nHow often each stage ran: {len(trials)} trials of two nets, each exported with two versions")
    for stage in ("generate", "prepare", "train", "export_onnx"):
        print(f"  {stage:<22} {counts[stage]:5}", flush=True)


def measure_early_answers(folder: Path) -> None:
    """Print what a trial takes that stops after `train`, beside one that runs on."""
    stop = {"metric": NET, "better": "higher", "within": 0.05}
    rates = {"train.learning_rate": [0.013, 1e-6]}
    trials = sweep(folder, 1, rates, early_stop=stop, **objective(FILE))
    whole = [trial["seconds"] for trial in trials if "evaluate" in trial["ran"]]
    stopped = [trial["seconds"] for trial in trials if "evaluate" not in trial["ran"]]
    saved = 1 - min(stopped) / min(whole)
    print("\nEarly answers: a trial")
    print(f"  of all stages          {min(whole):5.1f} s")
    print(f"  stopped after `train`  {min(stopped):5.1f} s   saved {saved:.0%}", flush=True)


def measure_pruning(folder: Path) -> None:
    """Print what a sweep of long trainings takes that ends those which fall behind, beside one that does not.

    Both train nets that no trial has trained before: the second one's rates differ in the fifth digit.
    """
    print(f"\nPruning: {len(LONG_RATES)} trials of `train`, {LONG['train.epochs']} epochs each, one at a time")
    taken, best = [], []
    for shift, prune in ((0.0, None), (1e-5, {"trials": 2, "epochs": LONG["train.epochs"] // 20})):
        rates = {"train.learning_rate": [rate * (1 + shift) for rate in LONG_RATES]}
        trials = sweep(folder, 1, rates, fixed=LONG, objectives=[{"metric": LOSS, "better": "lower"}], prune=prune)
        taken.append(sum(trial["seconds"] for trial in trials))
        whole = {number: trial["figures"][LOSS] for number, trial in enumerate(trials) if not trial.get("error")}
        best.append(min(whole, key=whole.__getitem__))
        title = "with" if prune else "without"
        counts = f"{len(trials) - len(whole)} ended, least loss {min(whole.values()):.4f}"
        print(f"  {title:<22} {taken[-1]:5.1f} s   {counts}", flush=True)
    same = "the same trial" if best[0] == best[1] else "ANOTHER trial"
    print(f"  saved {1 - taken[1] / taken[0]:.0%}; {same} is best", flush=True)


def measure_dvc(folder: Path, rounds: int) -> None:
    """Print what DVC takes for a trial of which nothing runs: `evaluate` of `measure_early_answers`'s first one."""
    clone = folder / ".dvc" / "tmp" / "sweep" / "clone-0"
    printed: list[str] = []
    setting = "train.learning_rate=0.013"
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(rounds):
        commit(folder)
        run(clone, "git", "fetch", "--quiet", "origin")
        run(clone, "git", "checkout", "--quiet", "--force", "--detach", "FETCH_HEAD")
        arguments = ("commands/sweeps/trial.py", "--set", setting, "--stages", "evaluate", "--publish", str(folder))
        ours.append(cpu_seconds_of(lambda words=arguments: printed.append(run(clone, sys.executable, *words))))  # type: ignore[misc]
        run(clone, "git", "reset", "--hard", "--quiet")
        words = ("exp", "run", "--name", f"bench-{number}", "--set-param", setting, "evaluate")
        push = ("exp", "push", "--no-cache", "origin", f"bench-{number}")
        theirs.append(cpu_seconds_of(lambda words=words, push=push: (dvc(clone, *words), dvc(clone, *push))))  # type: ignore[misc]
        run(clone, "git", "reset", "--hard", "--quiet")
    stages = len(re.findall("^Stage '", printed[0], flags=re.MULTILINE))
    print(f"\nBeyond a trial's stages: {stages} of which none runs; seconds of the processor, {rounds} rounds in turns")
    print(f"  by DVC's commands      {figure(theirs).median:5.1f}")
    print_ratio("one process", figure(ours), SECONDS_TARGET)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="of what has a target, whose median counts")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error(f"--rounds {rounds}: expected 1 or more")
    print(machine_in_words())
    print(load_in_words(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        parts: list[Callable[[], None]] = [
            lambda: make_project(folder),
            lambda: measure_rates(folder, rounds),
            lambda: count_stages(folder),
            lambda: measure_early_answers(folder),
            lambda: measure_pruning(folder),
            lambda: measure_dvc(folder, rounds),
        ]
        taken = [seconds_of(part) for part in parts]
    print(f"\nMeasured in {sum(taken):.0f} s: {' + '.join(f'{seconds:.0f}' for seconds in taken)}")


if __name__ == "__main__":
    main()

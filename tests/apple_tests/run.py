"""Run Apple's own coremltools tests against our evaluator and tell what passed.

The exit code is 1 on a failure nobody explained and 2 if no case was chosen.
See README.md beside this file.
"""

import argparse
import collections
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SUITES = {
    "ops": "coremltools.converters.mil.mil.ops.tests",
    "passes": "coremltools.converters.mil.mil.passes.tests",
    "torch": "coremltools.converters.mil.frontend.torch.test",
}
DEFAULTS: dict[str, dict[str, Any]] = {"torch": {"precision": "fp32", "sample": 2000}}
"""What `--suite all` chooses of a suite that is too large to run whole."""

STATUSES = ("passed", "failed", "unsupported", "not executed", "skipped")

Record = dict[str, Any]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="ops", help="all: ops, passes and 2000 of torch")
    parser.add_argument("--match", help="only cases whose id has a match of this regular expression")
    parser.add_argument("--precision", choices=["fp32", "fp16"], help="only cases of this precision")
    parser.add_argument("--sample", type=int, help="only this many random cases")
    parser.add_argument("--per-test", type=int, help="only this many random cases of each test function")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice")
    parser.add_argument("--files", nargs="*", help="only these test files or ids, below coremltools/converters/mil")
    parser.add_argument("--ids", type=Path, help="only the cases listed in this file, an id a line")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--results", type=Path, help="write every case to this JSON-lines file")
    parser.add_argument("--choose-sample", type=Path, help="write the ids of a quick sample to this file")
    parser.add_argument("--report", type=Path, help="write the tables to this Markdown file")
    return parser.parse_args()


def command(args: argparse.Namespace, results: Path, shard: int) -> list[str]:
    package = importlib.util.find_spec("coremltools")
    assert package is not None
    assert package.origin is not None
    site = Path(package.origin).parent.parent
    chosen = args.ids.read_text().splitlines() if args.ids else args.files
    if chosen:
        targets = [str(site / "coremltools/converters/mil" / file) for file in chosen]
    else:
        targets = [str(site / SUITES[args.suite].replace(".", "/"))]
    options = {
        "apple-results": results,
        "apple-match": args.match,
        "apple-precision": args.precision,
        "apple-sample": args.sample,
        "apple-per-test": args.per_test,
        "apple-seed": args.seed,
        "apple-shard": f"{shard}/{args.jobs}",
    }
    return [
        *(sys.executable, "-m", "pytest", "-p", "apple_tests.plugin", "-c", os.devnull, f"--rootdir={site}"),
        *("-p", "no:cacheprovider", "-p", "no:warnings", "-q", "--tb=line", "--continue-on-collection-errors"),
        *(f"--{name}={value}" for name, value in options.items() if value is not None),
        *targets,
    ]


def run(args: argparse.Namespace, folder: Path) -> list[Record]:
    """Run the chosen cases in `--jobs` processes; a process that dies is started again behind the case it died in."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "stages")])
    files = [folder / f"{shard}.jsonl" for shard in range(args.jobs)]
    processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(shard: int) -> None:
        log = (folder / f"{shard}.log").open("ab")
        processes[shard] = subprocess.Popen(
            command(args, files[shard], shard), cwd=folder, env=environment, stdout=log, stderr=log
        )

    for shard in range(args.jobs):
        start(shard)
    last = 0.0
    while processes:
        time.sleep(0.5)
        for shard, process in list(processes.items()):
            if process.poll() is None:
                continue
            del processes[shard]
            if process.returncode < 0:
                start(shard)
            elif process.returncode > 1 and process.returncode != 5:  # 5: no case chosen
                print((folder / f"{shard}.log").read_text()[-3000:], file=sys.stderr)
                raise SystemExit(f"pytest ended with code {process.returncode}")
        if time.monotonic() - last > (0.5 if sys.stderr.isatty() else 30):
            last = time.monotonic()
            progress(files)
    progress(files, end="\n")
    return records(files)


def lines(files: Iterable[Path]) -> list[Record]:
    return [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]


def records(files: Iterable[Path]) -> list[Record]:
    """The last word on each case; one that only started took its process with it."""
    last = {record["id"]: record for record in lines(files) if "id" in record}
    for record in last.values():
        if record["status"] == "started":
            record |= {"status": "failed", "reason": "the process died"}
    return list(last.values())


def progress(files: list[Path], end: str = "") -> None:
    written = lines(files)
    total = sum(record["total"] for record in written if "total" in record)
    counts = collections.Counter(record.get("status") for record in written)
    done = sum(counts[status] for status in STATUSES)
    text = ", ".join(f"{counts[status]} {status}" for status in STATUSES)
    start, end = ("\r", end) if sys.stderr.isatty() else ("", "\n")
    print(f"{start}{done} of {total}: {text}", end=end, file=sys.stderr, flush=True)


KNOWN: list[dict[str, str]] = tomllib.loads((HERE / "known.toml").read_text())["known"]


def explain(cases: list[Record]) -> None:
    """Give every failed or unsupported case its documented reason, or None."""
    for case in cases:
        if case["status"] in ("failed", "unsupported"):
            case["known"] = next((entry["reason"] for entry in KNOWN if applies(entry, case)), None)


def applies(entry: dict[str, str], case: Record) -> bool:
    """Tell whether an entry of known.toml is about this case, by its `id`, its `error` or both."""
    return bool(re.search(entry.get("id", ""), case["id"]) and re.search(entry.get("error", ""), case["reason"]))


def test_name(case: Record) -> str:
    """`mil/ops/tests/iOS17/test_conv.py::TestConv::test_x[...]` -> `conv: Conv`."""
    path, *names = case["id"].split("[")[0].split("::")
    return f"{Path(path).stem.removeprefix('test_')}: {names[0].removeprefix('Test')}"


def choose_sample(cases: list[Record]) -> list[str]:
    """Cases that compare values and pass: the quickest of each test class, then of each op that is still missing."""
    chosen: dict[str, Record] = {}
    seen: set[str] = set()
    compared = [case for case in cases if case["status"] == "passed" and case["comparisons"] and "\n" not in case["id"]]
    compared.sort(key=lambda case: case["seconds"])
    for case in compared:
        if test_name(case) not in chosen:
            chosen[test_name(case)] = case
            seen |= {*case["ops"]}
    for case in compared:
        if not seen.issuperset(case["ops"]):
            chosen[case["id"]] = case
            seen |= {*case["ops"]}
    return sorted(case["id"] for case in chosen.values())


def choice(args: argparse.Namespace) -> str:
    """Say which cases of a suite were run."""
    if args.match or args.files or args.ids:
        return "some chosen cases"
    precision = f" {args.precision}" if args.precision else ""
    if args.sample:
        return f"{args.sample} random{precision} cases (seed {args.seed})"
    if args.per_test:
        return f"at most {args.per_test} random{precision} cases of each test (seed {args.seed})"
    return f"every{precision} case"


def tables(cases: list[Record], suite: str, chosen: str) -> str:
    """A suite's run as Markdown: totals, one row per test file, the ops that ran and why the others did not pass."""
    by_file: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for case in cases:
        by_file[Path(case["id"].split("::")[0]).stem.removeprefix("test_")][case["status"]] += 1
    total = collections.Counter(case["status"] for case in cases)
    passed = [case for case in cases if case["status"] == "passed"]
    compared = sum(bool(case["comparisons"]) for case in passed)
    ops = collections.Counter(op for case in passed for op in case["ops"] if op != "const")
    reasons = collections.Counter(
        (case["status"], case.get("known") or case["reason"]) for case in cases if case["status"] != "passed"
    )
    text = [
        f"## The {suite} tests",
        "",
        f"Run: {chosen}, without those of the neural network format; {len(cases)} in all.",
        f"{total['passed']} passed: {compared} of them compared values, the others ran the model",
        "and checked its outputs' names and shapes.",
        "",
        "| test file | " + " | ".join(STATUSES) + " |",
        "|---|" + "---:|" * len(STATUSES),
        *(row(file, counts) for file, counts in sorted(by_file.items())),
        row("**all**", total),
        "",
        "| status | why | cases |",
        "|---|---|---:|",
    ]
    for (status, reason), count in sorted(reasons.items(), key=lambda entry: (entry[0][0], -entry[1], entry[0][1])):
        text.append(f"| {status} | {reason.replace('|', '/')} | {count} |")
    listed = ", ".join(f"`{op}` {count}" for op, count in sorted(ops.items()))
    return "\n".join(
        [*text, "", f"Ops in the cases that passed ({len(ops)} ops, with the number of cases): {listed}.", ""]
    )


def row(title: str, counts: collections.Counter[str]) -> str:
    return f"| {title} | " + " | ".join(str(counts[status] or "") for status in STATUSES) + " |"


def introduction() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("coremltools", "torch", "numpy"))
    return f"""# What the Core ML evaluator has been held to

Written by `tests/apple_tests/run.py`: the tests that ship in coremltools' wheel, with the evaluator in Core ML's place
({versions}). `tests/apple_tests/README.md` says how, and what the columns mean.
"""


def main() -> None:
    args = parse_args()
    suites = [*SUITES] if args.suite == "all" else [args.suite]
    report = [introduction()]
    cases: list[Record] = []
    for suite in suites:
        chosen = argparse.Namespace(
            **vars(args) | {"suite": suite} | (DEFAULTS.get(suite, {}) if len(suites) > 1 else {})
        )
        with tempfile.TemporaryDirectory(prefix="apple-tests-") as folder:
            of_suite = run(chosen, Path(folder))
        if args.results:
            with args.results.open("w" if not cases else "a") as file:
                file.writelines(json.dumps(case) + "\n" for case in of_suite)
        explain(of_suite)
        report.append(tables(of_suite, suite, choice(chosen)))
        cases += of_suite
    if not cases:
        matching = f" whose id matches {args.match!r}" if args.match else ""
        print(f"there is no case{matching} among those chosen", file=sys.stderr)
        raise SystemExit(2)
    unexplained = [case for case in cases if "known" in case and not case["known"]]
    if args.choose_sample:
        args.choose_sample.write_text("".join(f"{case_id}\n" for case_id in choose_sample(cases)))
    if args.report:
        args.report.parent.mkdir(parents=True, exist_ok=True)
        args.report.write_text("\n".join(report))
    if args.suite == "all":
        needed = {case.get("known") for case in cases}
        for reason in (entry["reason"] for entry in KNOWN if entry["reason"] not in needed):
            print(f"known.toml: no case needs {reason!r}", file=sys.stderr)
    for case in unexplained:
        print(f"{case['status'].upper()} {case['id']}\n    {case['reason']}")
    counts = collections.Counter(case["status"] for case in cases)
    print(", ".join(f"{counts[status]} {status}" for status in STATUSES) + f"; {len(unexplained)} unexplained")
    if unexplained or not counts["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""The gate that `dvc metrics diff` lacks: compare the metrics of two revisions, and fail on a regression.

Section `gate` of params.yaml says which metrics are held to what: a pattern, which way is better, and how far a metric
may go the other way. A metric is named by its file and its keys: `evaluate.onnx.fp32.accuracy` stands in
metrics/evaluate.json; in a pattern, `*` stands for any one name. True counts as 1 and false as 0.

What fails: a metric that got worse by more than allowed, that is gone, or that is no number any more (null, NaN, text);
and a rule that no metric matches. A metric that is new passes, and is listed.

Exit code: 0 nothing got worse, 1 a regression, 2 the revisions could not be compared.
"""

import argparse
import json
import math
import sys
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "stages"))

from shared.params import StageParams, read_params  # noqa: E402 - after the path to it
from shared.stage import StageError, one_line  # noqa: E402

from pydantic import Field, model_validator  # noqa: E402
from tabulate import tabulate  # noqa: E402

FOLDER = "metrics"
WORKSPACE = "workspace"
COLUMNS = ("metric", "old", "new", "change", "allowed", "verdict")
ABSENT = object()

Name = tuple[str, ...]
Metrics = dict[Name, Any]
"""Every value of all metrics files by file and keys."""


class Rule(StageParams):
    """How far the metrics that match a pattern may get worse.

    Attributes:
        metric: The pattern: as many names, joined by dots, as the metric has; each may hold wildcards.
        better: Which way.
        absolute: The largest change for the worse, in the metric's own unit.
        relative: The largest change for the worse, as a share of the old value; either this or `absolute` is given.
    """

    metric: str = Field(min_length=1)
    better: Literal["higher", "lower"]
    absolute: float | None = Field(default=None, ge=0)
    relative: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_limit(self) -> "Rule":
        if (self.absolute is None) == (self.relative is None):
            raise ValueError("should have either absolute or relative")
        return self

    def matches(self, name: Name) -> bool:
        """Whether the rule is about this metric."""
        patterns = self.metric.split(".")
        return len(patterns) == len(name) and all(map(fnmatchcase, name, patterns))

    def limit(self, old: float) -> float:
        """The largest change for the worse from that value, in the metric's own unit."""
        return self.absolute if self.absolute is not None else abs(old) * (self.relative or 0)

    def allowed(self) -> str:
        """The limit in words: `-0.002`, `+5%` or `none`."""
        limit = f"{self.absolute:g}" if self.absolute is not None else f"{100 * (self.relative or 0):g}%"
        if limit in ("0", "0%"):
            return "none"
        return f"{'-' if self.better == 'higher' else '+'}{limit}"


class Params(StageParams):
    """Section `gate`."""

    rules: list[Rule] = Field(min_length=1)


@dataclass(frozen=True)
class Check:
    """One metric under one rule, or a rule without a metric.

    Attributes:
        metric: Its name, or the rule's pattern.
        old: Its value before; `ABSENT` if there was none.
        new: Its value now; `ABSENT` if there is none.
        allowed: The rule's limit, in words.
        verdict: What is wrong, or `ok`, `new`, `unchanged`.
        passed: Whether nothing is.
    """

    metric: str
    old: Any
    new: Any
    allowed: str
    verdict: str
    passed: bool

    def row(self) -> tuple[str, ...]:
        """As the table shows it; the change is signed, and in percent beside a limit in percent."""
        change = ""
        if is_number(self.old) and is_number(self.new):
            difference = self.new - self.old
            relative = self.allowed.endswith("%") and self.old
            change = f"{100 * difference / abs(self.old):+.3g}%" if relative else f"{difference:+.6g}"
        return (self.metric, shown(self.old), shown(self.new), change, self.allowed, self.verdict)


def is_number(value: Any) -> bool:
    """Whether a value can be compared: a finite number, or true or false."""
    return isinstance(value, int | float) and math.isfinite(value)


def shown(value: Any) -> str:
    """A value as the table shows it."""
    if value is ABSENT:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def judge(rule: Rule, old: Any, new: Any) -> tuple[str, bool]:
    """The verdict on one metric, and whether it passes."""
    if new is ABSENT:
        return "missing", False
    if not is_number(new):
        return ("unchanged", True) if old is None and new is None else ("not a number", False)
    if not is_number(old):
        return "new", True
    worse = old - new if rule.better == "higher" else new - old
    limit = rule.limit(old)
    if worse > limit and not math.isclose(worse, limit, rel_tol=1e-9):  # 0.97 - 0.968 is a little more than 0.002
        return "worse", False
    return ("ok" if worse else "unchanged"), True


def compare(rules: list[Rule], old: Metrics, new: Metrics) -> list[Check]:
    """Hold every metric to every rule that matches it, in the order of the rules."""
    checks = []
    for rule in rules:
        names = [name for name in {**old, **new} if rule.matches(name)]
        for name in names:
            values = old.get(name, ABSENT), new.get(name, ABSENT)
            checks.append(Check(".".join(name), *values, rule.allowed(), *judge(rule, *values)))
        if not names:
            checks.append(Check(rule.metric, ABSENT, ABSENT, rule.allowed(), "no metric matches", passed=False))
    return checks


def flatten(content: Any, name: Name) -> Metrics:
    """Every value below a name."""
    if not isinstance(content, dict):
        return {name: content}
    return {key: value for part, inner in content.items() for key, value in flatten(inner, (*name, part)).items()}


def read_metrics(revision: str) -> Metrics:
    """All metrics files of a revision, or of the workspace.

    Raises:
        StageError: There is no such revision, or it has no metrics, or a file is not JSON.
    """
    texts = read_workspace() if revision == WORKSPACE else read_revision(revision)
    if not texts:
        raise StageError(f"{revision}: no {FOLDER}/*.json: nothing to compare")
    metrics: Metrics = {}
    for name, text in texts.items():
        try:
            metrics |= flatten(json.loads(text), (name,))
        except ValueError as error:
            raise StageError(f"{FOLDER}/{name}.json of {revision}: not valid JSON: {error}") from None
    return metrics


def read_workspace() -> dict[str, str]:
    """The text of every metrics file, by name."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(Path(FOLDER).glob("*.json"))}


def read_revision(revision: str) -> dict[str, str]:
    """As `read_workspace`, through DVC: it knows its experiments by name, and metrics that are not kept in Git.

    Raises:
        StageError: There is no such revision.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    texts = {}
    try:
        files = DVCFileSystem(rev=revision)
        for path in sorted(files.ls(FOLDER, detail=False)):
            if path.endswith(".json"):
                with suppress(FileNotFoundError):  # named in dvc.lock, but kept nowhere
                    texts[Path(path).stem] = files.read_text(path)
    except FileNotFoundError:
        pass  # there is no such folder
    except DvcException as error:
        raise StageError(f"{one_line(error)}; a revision that only a remote has must be fetched first") from None
    return texts


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--against",
        metavar="REV",
        default="HEAD",
        help="what to compare with: a branch, tag, commit or DVC experiment (default: HEAD)",
    )
    parser.add_argument("--of", metavar="REV", default=WORKSPACE, help="what is compared (default: the workspace)")
    parser.add_argument("--all", action="store_true", help="list what did not change, too")
    parser.add_argument("--md", action="store_true", help="print a Markdown table, for a pull request")
    return parser.parse_args()


def main() -> None:
    """Compare, print the table, exit with the verdict."""
    args = parse_args()
    try:
        rules = read_params("gate", Params).rules
        old, new = read_metrics(args.against), read_metrics(args.of)
        checks = compare(rules, old, new)
        if all(check.old is ABSENT for check in checks):
            raise StageError(f"{args.against} has no metric that a rule of section gate matches: nothing to compare")
    except StageError as error:
        print(f"gate: error: {error}", file=sys.stderr)
        sys.exit(2)
    rows = [check.row() for check in checks if args.all or check.verdict != "unchanged"]
    if rows:
        align = ("left", "right", "right", "right", "right", "left")
        style = "github" if args.md else "plain"
        print(tabulate(rows, COLUMNS, style, disable_numparse=True, colalign=align), end="\n\n")
    failed = sum(not check.passed for check in checks)
    verdict = f"{failed} failed" if failed else "none failed"
    print(f"{args.of} against {args.against}: {len(checks)} checks, {verdict}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

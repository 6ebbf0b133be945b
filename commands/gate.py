"""The gate that `dvc metrics diff` lacks: compare the metrics of two revisions, and fail on a regression.

Section `gate` of params.yaml says which metrics are held to what: a pattern, which way is better, and how far a metric
may go the other way. A metric is named by its file and its keys: `evaluate.onnx.fp32.accuracy` stands in
metrics/evaluate.json; in a pattern, `*` stands for any one name. True counts as 1 and false as 0.

What fails: a metric that got worse by more than allowed, that is gone, or that is no number any more (null, NaN, text);
and a rule that no metric matches. A metric that is new passes, and is listed. With `gate.release: true` also a release
bundle that is not there, is not that of dvc.lock, or does not pass its own verify.py.

Exit code: 0 nothing got worse, 1 a regression, 2 the revisions could not be compared, for whatever reason.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "stages"))

from shared.kit import end_in_one_line  # noqa: E402 - after the path to it

if __name__ == "__main__":
    end_in_one_line(exit_code=2)

from shared.kit.params import StageParams, read_params  # noqa: E402
from shared.kit.stage import StageError, one_line  # noqa: E402
from shared.kit.text import printable  # noqa: E402
from shared.page.formatting import escape_markdown  # noqa: E402

from pydantic import Field, model_validator  # noqa: E402
from tabulate import tabulate  # noqa: E402

FOLDER = "metrics"
RELEASE = "release"
BUNDLE = f"models/{RELEASE}"
WORKSPACE = "workspace"
COLUMNS = ("metric", "old", "new", "change", "allowed", "verdict")
ABSENT = object()
MOST_SHOWN = 60  # characters of a value or a revision
MOST_DIGITS = 300

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
    release: bool


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
    return f"{value:.6g}" if isinstance(value, float) else shortened(printable(json.dumps(value, ensure_ascii=False)))


def shortened(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


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
    contents = read_workspace() if revision == WORKSPACE else read_revision(revision)
    if not contents:
        raise StageError(f"{shortened(revision)}: no {FOLDER}/*.json: nothing to compare")
    metrics: Metrics = {}
    for name, content in contents.items():
        try:
            metrics |= flatten(json.loads(content, parse_int=read_integer), (name,))
        except (ValueError, RecursionError) as error:  # ValueError: also bytes that are not UTF-8
            raise StageError(
                f"{FOLDER}/{name}.json of {shortened(revision)}: not valid JSON: {one_line(error)}"
            ) from None
    return metrics


def read_workspace() -> dict[str, bytes]:
    """The content of every metrics file, by name."""
    return {path.stem: path.read_bytes() for path in sorted(Path(FOLDER).glob("*.json"))}


def read_revision(revision: str) -> dict[str, bytes]:
    """As `read_workspace`, through DVC: it knows its experiments by name, and metrics that are not kept in Git.

    Raises:
        StageError: There is no such revision.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    contents = {}
    try:
        files = DVCFileSystem(rev=revision)
        for path in sorted(files.ls(FOLDER, detail=False)):
            if path.endswith(".json"):
                with suppress(FileNotFoundError):  # named in dvc.lock, but kept nowhere
                    contents[Path(path).stem] = files.read_bytes(path)
    except FileNotFoundError:
        pass  # there is no such folder
    except DvcException as error:
        what = one_line(error).replace(revision, shortened(revision))
        raise StageError(f"{what}; a revision that only a remote has must be fetched first") from None
    except Exception as error:  # what Git's libraries raise about a tree, a file or a name that is too long
        what = one_line(error).replace(revision, shortened(revision))
        raise StageError(f"{shortened(revision)}: not a branch, tag, commit or DVC experiment: {what}") from None
    return contents


def check_release(revision: str) -> Check:
    """Whether the bundle of a revision is there, is that of its dvc.lock, and passes its own verify.py.

    Raises:
        StageError: There is no such revision, or DVC cannot say.
    """
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(BUNDLE) if revision == WORKSPACE else fetch_bundle(revision, Path(folder) / RELEASE)
        verifier = bundle / "verify.py"
        if not verifier.is_file():
            return Check(BUNDLE, ABSENT, ABSENT, "", "missing", passed=False)
        problems = []
        if revision == WORKSPACE and is_stale():
            problems.append(f"not that of dvc.lock: see dvc status {RELEASE}")
        ran = subprocess.run([sys.executable, verifier], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if ran.returncode:
            problems.append("does not pass its verify.py")
        return Check(BUNDLE, ABSENT, ABSENT, "", "; ".join(problems) or "ok", passed=not problems)


def is_stale() -> bool:
    """Whether the workspace's bundle, or what it was made from, is another than dvc.lock says.

    Raises:
        StageError: DVC cannot say.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as project:
            return bool(project.status(targets=[RELEASE]))
    except DvcException as error:
        raise StageError(f"stage {RELEASE}: {one_line(error)}") from None


def fetch_bundle(revision: str, folder: Path) -> Path:
    """A revision's bundle, from DVC's cache or remote; nothing is written if there is none.

    Raises:
        StageError: There is one, but nowhere to be had.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    files = DVCFileSystem(rev=revision)
    if files.isdir(BUNDLE):
        try:
            files.get(BUNDLE, str(folder), recursive=True)
        except (DvcException, OSError) as error:
            raise StageError(f"{BUNDLE} of {shortened(revision)}: {one_line(error)}") from None
    return folder


def read_integer(digits: str) -> int:
    """An integer in JSON.

    Raises:
        ValueError: It is beyond all floats: no metric, but damage.
    """
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


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


def check_names(of: str, against: str) -> None:
    """Refuse names that compare nothing, such as of a variable that CI has not set.

    Raises:
        StageError: One is empty, or both are the same.
    """
    for option, revision in (("--against", against), ("--of", of)):
        if not revision.strip():
            raise StageError(f"{option} {revision!r}: expected a branch, tag, commit or DVC experiment")
    if of == against:
        raise StageError(f"--against {shortened(against)}: that is what is compared; expected another revision")


def judge_revisions(args: argparse.Namespace) -> list[Check]:
    """Every check of what the command line asks for.

    Raises:
        StageError: It cannot be compared.
    """
    check_names(args.of, args.against)
    params = read_params("gate", Params)
    checks = compare(params.rules, read_metrics(args.against), read_metrics(args.of))
    if all(check.old is ABSENT for check in checks):
        raise StageError(
            f"{shortened(args.against)} has no metric that a rule of section gate matches: nothing to compare"
        )
    return [*checks, check_release(args.of)] if params.release else checks


def table(checks: list[Check], args: argparse.Namespace) -> str:
    """What is printed: a row for each check that is to be shown, and how many failed."""
    show = (lambda text: escape_markdown(printable(text))) if args.md else printable
    rows = [tuple(map(show, check.row())) for check in checks if args.all or check.verdict != "unchanged"]
    failed = sum(not check.passed for check in checks) or "none"
    summary = f"{show(args.of)} against {show(args.against)}: {len(checks)} checks, {failed} failed"
    if not rows:
        return summary
    align = ("left", "right", "right", "right", "right", "left")
    style = "github" if args.md else "plain"
    return f"{tabulate(rows, COLUMNS, style, disable_numparse=True, colalign=align)}\n\n{summary}"


def main() -> None:
    """Compare, print the table, exit with the verdict."""
    args = parse_args()
    try:
        checks = judge_revisions(args)
        text = table(checks, args)
    except Exception as error:  # also a bug of ours: 1 would mean a regression
        message = one_line(error) if isinstance(error, StageError | OSError) else f"{type(error).__name__}: {error!s}"
        print(f"gate: error: {printable(message)}", file=sys.stderr)
        sys.exit(2)
    with suppress(BrokenPipeError):  # `| head`: the verdict stands
        print(text, flush=True)
    sys.exit(0 if all(check.passed for check in checks) else 1)


if __name__ == "__main__":
    main()

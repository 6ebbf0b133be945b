"""Figures as a person reads them, with units and sensible digits; parameters and names as text."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from shared.files.formats import EXECUTORS, REFERENCE
from shared.judging.recommendation import SYSTEMS, Candidate

MINUS = "\N{MINUS SIGN}"


def format_size(count: float) -> str:
    """Bytes as kB or MB (powers of 1000), with three significant digits or so."""
    if count < 1e5:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e3:.0f} kB" if count < 1e6 else f"{count / 1e6:,.1f} MB"


def format_points(share: float) -> str:
    """A share as percentage points."""
    return f"{100 * share:.2f}"


def format_change(loss: float) -> str:
    """A loss of accuracy as a change in percentage points, with its sign."""
    text = f"{100 * abs(loss):.2f}"
    return text if text == "0.00" else f"{MINUS if loss > 0 else '+'}{text}"


def format_interval(interval: list[float]) -> str:
    """The ends of an interval of a share, as percentages."""
    low, high = (f"{100 * end:.2f}" for end in interval)
    return f"{low} to {high}%"


def format_change_interval(interval: list[float]) -> str:
    """The ends of an interval of a loss, as changes in percentage points: the worst first."""
    low, high = interval
    return f"{format_change(high)} to {format_change(low)}"


def format_figure_interval(interval: Iterable[float]) -> str:
    """The ends of an interval of a measured number."""
    return " to ".join(map(format_figure, interval))


def format_requirement(requires: dict[str, Any]) -> str:
    """The oldest systems that run a file; a dash if nobody looked."""
    words = [f"{name} {requires[key] or '?'}" for key, name in SYSTEMS.items() if key in requires]
    return ", ".join(words) or "\N{EN DASH}"


def format_power(value: float) -> str:
    """A small measured number with two digits, such as 1.3e-7."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def format_figure(value: float, digits: int = 3) -> str:
    """Significant digits: as a power only where it is very small."""
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def escape_markdown(text: object) -> str:
    """Text as Markdown that shows it as it is, in a cell of a table too."""
    return "".join(f"\\{character}" if character in "\\`*_{}[]<>#|~!" else character for character in str(text))


def format_value(value: Any) -> str:
    """A parameter, much as params.yaml has it."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {format_value(inner)}" for key, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def flatten(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The keys of a section, nested ones with dots, and their values; a group of plain values is one."""
    for key, value in section.items():
        if isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values()):
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield from ((f"{prefix}{key}.{index}", format_value(item)) for index, item in enumerate(value))
        else:
            yield f"{prefix}{key}", format_value(value)


def executed_by(file: Candidate) -> dict[str, str | None]:
    """Who executed a file, each in which version: its format's own runtime first."""
    if (file.format, file.variant) == REFERENCE:
        return {"pytorch": None}
    own = {file.executor: file.parity["executor_version"]} if file.parity and file.executor else {}
    return own | {
        name: found["executor_version"] for name, found in file.elsewhere.items() if "executor_version" in found
    }


def executor_titles(file: Candidate) -> list[str]:
    """Their names, without versions."""
    return [EXECUTORS[name].title for name in executed_by(file)] or ["nobody"]


def format_executor(file: Candidate) -> str:
    """Their names and versions, in one line."""
    return ", ".join(in_version(name, version) for name, version in executed_by(file).items()) or "nobody"


def in_version(executor: str, version: str | None) -> str:
    """An executor by its name and version, if it is known; the reference evaluator has none of its own."""
    title = EXECUTORS[executor].title
    return title if executor == "reference" or version is None else f"{title} {version}"


def verdict(file: Candidate, best: list[Candidate]) -> tuple[str, str]:
    """How the page marks a file, and in which words."""
    if (file.format, file.variant) == REFERENCE:
        found = (file.parity or {}).get("problems", [])
        return ("bad", f"✗ {found[0].partition(':')[0]}") if found else ("soft", "the reference")
    if file in best:
        return "good", "★ recommended"
    if file.problems:
        check = file.problems[0].partition(":")[0]
        return "bad", "✗ not executed" if check == "executed" else f"✗ wrong: {check}"
    if file.objection:
        lossy = file.parity and file.parity["outcome"] == "too_lossy"
        return "warn", "too lossy" if lossy else "not recommended" if file.task and file.size else "not measured"
    return "good", "✓ fit"

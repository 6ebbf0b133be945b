"""What a person sees while a sweep runs: a live table on a terminal, one line for each trial elsewhere."""

import time
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from commands.sweeps.space import Space

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text


class Screen:
    """The display of one sweep.

    Args:
        space: What is searched.
        limit: How many trials there will be.
    """

    def __init__(self, space: Space, limit: int | None) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._bar = Progress(TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
        self._task = self._bar.add_task("trials", total=limit, told="")
        self._space = space
        self._counts: Counter[str] = Counter()
        self._took: list[float] = []
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._begun = time.time()

    def __enter__(self) -> "Screen":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(text, markup=False)

    def tell(self, name: str, status: str, outcome: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
        """Print what became of a trial."""
        self._counts[status] += 1
        seconds = float(outcome.get("seconds") or 0)
        if status in ("published", "stopped", "failed") and seconds:
            self._took.append(seconds)
        text = f"{name}  {status}"
        if outcome.get("error"):
            stage = f"{outcome['stage']}: " if outcome.get("stage") else ""
            text += f"  {stage}{outcome['error']}"
        metrics = [objective.metric for objective in self._space.objectives] if status == "published" else list(figures)
        text += "".join(f"  {metric} {shown(figures[metric])}" for metric in metrics if metric in figures)
        unfit = [file for file in self._space.fit if figures.get(f"verify.{file}") is False]
        text += f"  not fit to ship: {', '.join(unfit)}" if unfit else ""
        self.say(text + (f"  {seconds:.1f} s" if seconds else ""))

    def show(self, study: Any, running: list[Any], doing: Mapping[str, tuple[str, float]], jobs: int) -> None:
        """Draw the table anew."""
        if not self._console.is_terminal:
            return
        table = Table("trial", "doing", "seconds", "parameters", box=None)
        now = time.time()
        for each in running:
            words = each.job.arguments
            stage, _ = doing.get(each.job.name, ("waits for a worker", each.since))
            changes = Text(", ".join(word for flag, word in pairwise(words) if flag == "--set"))
            again = f" (begun {each.begun} times)" if each.begun > 1 else ""
            table.add_row(each.job.name, stage + again, f"{now - each.since:.0f}", changes)
        finished = study.begun() - len(running)
        counts = ", ".join(f"{number} {status}" for status, number in self._counts.items())
        left = self._left(study.limit, finished, jobs)
        told = ", ".join(filter(None, [counts, left]))
        self._bar.update(self._task, total=study.limit, completed=finished, told=told)
        self._live.update(Group(table, self._bar))

    def _left(self, limit: int | None, finished: int, jobs: int) -> str:
        """The time that the trials which are left will take, if they take as long as those that have ended."""
        if limit is None or not self._took:
            return ""
        seconds = sum(self._took) / len(self._took) * max(0, limit - finished) / jobs
        return f"about {int(seconds // 60)}:{int(seconds % 60):02} left"


def shown(value: Any) -> str:
    """A figure as a person reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)

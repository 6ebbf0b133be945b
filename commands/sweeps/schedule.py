"""Which trial may start now: never one that would compute what another is just computing."""

from collections.abc import Iterable

from commands.sweeps.pipeline import Pipeline
from commands.sweeps.space import Settings

Work = set[tuple[str, str]]
"""Stages and what their results depend on."""


class Schedule:
    """Two trials that train alike must not train at once: the second finds the first one's result in the run cache.

    Args:
        pipeline: The project's.
        stages: Those that every trial runs, with all that they need.
        shared: Whether the trials share a cache, where a result is found as soon as its stage has ended; otherwise it
            is found when its trial has been published.
        done: Stages that have the same results in every trial, and have them already.
    """

    def __init__(self, pipeline: Pipeline, stages: Iterable[str], *, shared: bool, done: Iterable[str] = ()) -> None:
        self._pipeline, self._stages, self._shared = pipeline, list(stages), shared
        self._done: Work = set(pipeline.work(done, {}).items())
        self._under_way: dict[str, Work] = {}
        self._seen: dict[str, str] = {}

    def may_start(self, settings: Settings) -> bool:
        """Whether nothing that it needs is being computed."""
        return not (self._work(settings) - self._done).intersection(*[set().union(*self._under_way.values())])

    def start(self, name: str, settings: Settings) -> None:
        """A trial has begun."""
        self._under_way[name] = self._work(settings) - self._done

    def reached(self, name: str, stage: str) -> None:
        """A trial is at a stage: all that this one needs is done, and the one before."""
        if not self._shared or name not in self._under_way or stage not in self._pipeline.needs:
            return
        before = self._seen.get(name)
        ended = self._pipeline.needs[stage] - {stage} | ({before} if before and before != stage else set())
        self._seen[name] = stage
        done = {work for work in self._under_way[name] if work[0] in ended}
        self._under_way[name] -= done
        self._done |= done

    def end(self, name: str, *, published: bool) -> None:
        """A trial has ended."""
        work = self._under_way.pop(name, set())
        self._seen.pop(name, None)
        if published:
            self._done |= work

    def _work(self, settings: Settings) -> Work:
        return set(self._pipeline.work(self._stages, settings).items())

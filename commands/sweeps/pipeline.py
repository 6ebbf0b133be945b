"""dvc.yaml -> the stages that a parameter touches, those that write a figure, and what two trials have in common."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.kit.params import PARAMS_FILE, closest
from shared.kit.stage import StageError

from ruamel.yaml import YAML

WHOLE_FILE = ""
"""In place of a key: a stage that depends on all parameters."""


@dataclass(frozen=True)
class Pipeline:
    """What the project's stages read and write.

    Attributes:
        keys: Stage (such as `predict@onnx`) to the keys of params.yaml that it or anything that it needs depends on.
        needs: Stage to itself and everything that it needs.
        writers: Output to the stage that writes it.
    """

    keys: dict[str, frozenset[str]]
    needs: dict[str, frozenset[str]]
    writers: dict[str, str]

    def writer_of(self, metric: str) -> str:
        """The stage that writes a figure, such as `evaluate.onnx.int8.accuracy` of metrics/evaluate.json.

        Raises:
            StageError: No stage writes such a file.
        """
        file = metric.partition(".")[0]
        for suffix in ("json", "csv"):
            if stage := self.writers.get(f"metrics/{file}.{suffix}"):
                return stage
        known = sorted(
            Path(path).stem for path in self.writers if path.startswith("metrics/") and path.endswith("json")
        )
        raise StageError(
            f"{metric}: no stage writes metrics/{file}.json{closest(file, known)}; there are {', '.join(known)}"
        )

    def touched(self, stages: Iterable[str], varied: Iterable[str]) -> set[str]:
        """Of some stages and all that they need, those whose result depends on any of the keys."""
        varied = list(varied)
        return {stage for stage in self._all(stages) if any(self._depends(stage, key) for key in varied)}

    def work(self, stages: Iterable[str], settings: Mapping[str, Any]) -> dict[str, str]:
        """Stage to what its result depends on: two trials with the same pair compute the same."""
        return {
            stage: json.dumps(
                sorted((key, repr(value)) for key, value in settings.items() if self._depends(stage, key))
            )
            for stage in self._all(stages)
        }

    def _all(self, stages: Iterable[str]) -> set[str]:
        names = {name for asked in stages for name in self.keys if name == asked or name.partition("@")[0] == asked}
        return set().union(*(self.needs[name] for name in names))

    def _depends(self, stage: str, key: str) -> bool:
        return any(
            known in (WHOLE_FILE, key) or key.startswith(f"{known}.") or known.startswith(f"{key}.")
            for known in self.keys[stage]
        )


def read_pipeline(folder: Path) -> Pipeline:
    """Read a project's dvc.yaml.

    Raises:
        StageError: DVC cannot read it.
    """
    import networkx
    from dvc.dependency.param import ParamsDependency
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    definitions = YAML(typ="safe", pure=True).load(folder / "dvc.yaml")["stages"]
    try:
        with Repo(str(folder)) as repo:
            graph = repo.index.graph
            pipeline = [stage for stage in graph if Path(stage.path).resolve() == (folder / "dvc.yaml").resolve()]
            own = {stage: set(interpolated(definitions.get(stage.name.partition("@")[0], {}))) for stage in pipeline}
            for stage in pipeline:
                for dependency in stage.deps:
                    if isinstance(dependency, ParamsDependency):
                        own[stage] |= set(dependency.params) or {WHOLE_FILE}
                    elif dependency.def_path == PARAMS_FILE.name:
                        own[stage].add(WHOLE_FILE)
            needs = {stage: {stage, *networkx.descendants(graph, stage)} & set(pipeline) for stage in pipeline}
            return Pipeline(
                keys={stage.name: frozenset().union(*(own[each] for each in needs[stage])) for stage in pipeline},
                needs={stage.name: frozenset(each.name for each in needs[stage]) for stage in pipeline},
                writers={
                    Path(out.fs_path).relative_to(folder.resolve()).as_posix(): stage.name
                    for stage in pipeline
                    for out in stage.outs
                },
            )
    except DvcException as error:
        raise StageError(" ".join(str(error).split())) from None


def keep_last_run(pipeline: Pipeline, cache: str) -> set[str]:
    """Put what the current folder's last run computed, and is still true, into DVC's run cache; return the stages.

    `dvc repro` leaves those out that have an output in Git which is neither a metric nor a plot. A cache that is not
    this folder's is left as it is.
    """
    from dvc.repo import Repo

    with Repo(".") as repo:
        if not Path(cache).samefile(repo.cache.local_cache_dir):
            return set()
        changed = set(repo.status())
        kept = {stage for stage, needed in pipeline.needs.items() if not needed & changed}
        for stage in repo.index.stages:
            if stage.addressing in kept:
                repo.stage_cache.save(stage)
    return kept


def interpolated(definition: dict[str, Any]) -> list[str]:
    """The parameters that dvc.yaml puts into a stage, such as the list that a `foreach` goes over."""
    return [
        key
        for key in re.findall(r"\$\{([\w.]+)\}", json.dumps(definition))
        if key.partition(".")[0] not in ("item", "key")
    ]

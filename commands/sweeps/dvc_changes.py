"""What a trial's process changes in the DVC that runs in it; what DVC writes stays the same, byte for byte."""

import contextlib
import io
import pickle
import re
from typing import Any, TextIO

from dvc.exceptions import DvcException

LOCK_HEAD = "schema: '2.0'\nstages:\n"
STAGE_OF_LOCK = re.compile(r"^(?=  \S)", re.MULTILINE)


def change_dvc() -> None:
    """All of it, in this process."""
    for change in (keep_every_run, ask_once, lock_no_single_paths, stage_once, remember_yaml):
        change()


def keep_every_run() -> None:
    """Let DVC's run cache keep every stage.

    It restores any, but `Stage.run` saves none with an output in Git that is neither a metric nor a plot, such as
    metrics/loss.csv: each trial would train again what another one has trained.
    """
    from dvc.stage import Stage

    save = Stage.save
    Stage.save = lambda stage, allow_missing=False, **_: save(stage, allow_missing, run_cache=True)


def ask_once() -> None:
    """Let DVC's run cache hash what a stage depends on once, to learn that there is all of it.

    It does so four times for each stage that it restores and saves, folder by folder, and uses none of the hashes.
    """
    from dvc.stage import cache

    asked = cache._can_hash
    answer = "_sweep_can_hash"

    def can_hash(stage: Any) -> bool:
        if not getattr(stage, answer, False):
            setattr(stage, answer, asked(stage))
        return bool(getattr(stage, answer))

    cache._can_hash = can_hash


def lock_no_single_paths() -> None:
    """Let DVC keep no list of the paths that a command reads and writes, which it writes anew 700 times in a trial.

    The list is there for several commands in one workspace. A trial has its clone for itself.
    """
    from dvc import rwlock

    rwlock.rwlock = lambda *_: contextlib.nullcontext()


def stage_once() -> None:
    """Let DVC add what the stages have read and written to Git's index when all have ended, not after each.

    Nobody reads the index meanwhile, and each time it is read, written, and all folders of sources are walked.
    """
    from dvc.repo.experiments.executor.base import BaseExecutor
    from dvc.repo.reproduce import _reproduce_stage
    from dvc.stage.utils import _get_stage_files

    ended: list[Any] = []
    others = BaseExecutor._get_top_level_paths

    def reproduce(stage: Any, **options: Any) -> Any:
        result = _reproduce_stage(stage, **options)
        ended.append(stage)
        return result

    def paths_to_add(repo: Any) -> list[str]:
        files = [path for stage in ended for path in _get_stage_files(stage)]
        return list(dict.fromkeys([*files, *others(repo)]))

    BaseExecutor._repro_and_track = staticmethod(reproduce)
    BaseExecutor._get_top_level_paths = staticmethod(paths_to_add)


def remember_yaml() -> None:
    """Let DVC parse no text twice, hold none to its schema twice, and write no stage of dvc.lock twice.

    After each stage it reads all of dvc.lock, with a parser that keeps comments, which dvc.lock has none of, and writes
    all of it, in pure Python; and it reads params.yaml for each stage again. That is half of the time that it takes.
    """
    from dvc.utils import strictyaml
    from dvc.utils.serialize import _yaml

    memory = YamlMemory(_yaml.parse_yaml, _yaml._dump)
    slow = _yaml.parse_yaml_for_update
    _yaml.parse_yaml = strictyaml.parse_yaml = memory.parse
    _yaml.parse_yaml_for_update = lambda text, path: (memory.parse if path.endswith(".lock") else slow)(text, path)
    _yaml._dump = memory.dump
    strictyaml.validate = SchemaMemory(strictyaml.validate).validate


class SchemaMemory:
    """Texts that keep to a schema, and what they say then, its defaults filled in.

    Args:
        validate: DVC's, of what a text says.
    """

    def __init__(self, validate: Any) -> None:
        self._validate = validate
        self._valid: dict[tuple[int, str], bytes] = {}

    def validate(self, data: Any, schema: Any, text: str | None = None, path: str | None = None, **where: Any) -> Any:
        """What DVC makes of it; each time a copy, which may be changed."""
        if text is None:
            return self._validate(data, schema, path=path, **where)
        key = id(schema), text  # DVC's schemas are made once
        if key not in self._valid:
            self._valid[key] = pickle.dumps(self._validate(data, schema, text=text, path=path, **where))
        return pickle.loads(self._valid[key])  # noqa: S301 - made in the line above


class YamlMemory:
    """Texts and what they say, once either has been made of the other: those of dvc.lock stage by stage.

    Args:
        parse: DVC's, of a text at a path.
        dump: DVC's, of data into a stream.
    """

    def __init__(self, parse: Any, dump: Any) -> None:
        self._parse, self._dump = parse, dump
        self._parsed: dict[str, bytes] = {}
        self._texts: dict[str, str] = {}

    def parse(self, text: str, path: str, typ: str = "safe") -> Any:
        """What a text says; each time a copy, which may be changed."""
        if typ != "safe":
            return self._parse(text, path, typ)
        return self._parse_lock(text, path) or self._parse_once(text, path)

    def dump(self, data: Any, stream: TextIO) -> None:
        """Write data."""
        if list(data) != ["schema", "stages"] or data["schema"] != "2.0" or not data["stages"]:
            self._dump(data, stream)
            return
        stream.write(LOCK_HEAD)
        stream.writelines(self._text_of({name: content}) for name, content in data["stages"].items())

    def _parse_lock(self, text: str, path: str) -> dict[str, Any] | None:
        """What dvc.lock says; None if the text is another one, or not as DVC writes it."""
        head, *blocks = STAGE_OF_LOCK.split(text)
        if head != LOCK_HEAD or not blocks:
            return None
        stages: dict[str, Any] = {}
        for block in blocks:
            try:
                stage = self._parse_once(block, path)
            except DvcException:
                return None
            if not isinstance(stage, dict) or len(stage) != 1 or stage.keys() & stages.keys():
                return None
            stages |= stage
            self._texts[repr(stage)] = block
        return {"schema": "2.0", "stages": stages}

    def _parse_once(self, text: str, path: str) -> Any:
        if text not in self._parsed:
            self._parsed[text] = pickle.dumps(self._parse(text, path))
        return pickle.loads(self._parsed[text])  # noqa: S301 - made in the line above

    def _text_of(self, stage: dict[str, Any]) -> str:
        key = repr(stage)
        if key not in self._texts:
            stream = io.StringIO()
            self._dump({"stages": stage}, stream)
            self._texts[key] = stream.getvalue().removeprefix("stages:\n")
        return self._texts[key]

"""What a trial's process changes in the DVC that runs in it; what DVC writes stays the same, byte for byte."""

import io
import pickle
import re
from typing import Any, TextIO

from dvc.exceptions import DvcException

LOCK_HEAD = "schema: '2.0'\nstages:\n"
STAGE_OF_LOCK = re.compile(r"^(?=  \S)", re.MULTILINE)


def keep_every_run() -> None:
    """Let DVC's run cache keep every stage.

    It restores any, but `Stage.run` saves none with an output in Git that is neither a metric nor a plot, such as
    metrics/loss.csv: each trial would train again what another one has trained.
    """
    from dvc.stage import Stage

    save = Stage.save
    Stage.save = lambda stage, allow_missing=False, **_: save(stage, allow_missing, run_cache=True)


def remember_yaml() -> None:
    """Let DVC parse no text twice, and write no stage of dvc.lock twice.

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

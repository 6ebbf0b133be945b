"""A section of params.yaml -> a validated, frozen object."""

import difflib
import functools
import itertools
import re
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from shared.kit.stage import LONGEST_MESSAGE, StageError, one_line, read_bytes

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from ruamel.yaml import YAML

PARAMS_FILE = Path("params.yaml")

MOST_BYTES = 1_000_000
MOST_SHOWN = 80  # characters of a value in a message
MOST_PROBLEMS = 5  # in one message
MOST_NESTED = 100
MOST_VALUES = 100_000
"""Of params.yaml with all aliases written out: a file of some lines can stand for billions of values."""

Count = Annotated[int, Field(gt=0, le=1_000_000_000)]
"""How many of something: a positive integer. More than a billion is taken for a slip, before anything fills up."""

Width = Annotated[int, Field(gt=0, le=65_536)]
"""How many values stand side by side in a net: the matrix of two such widths has 16 GiB."""

Depth = Annotated[int, Field(gt=0, le=1_000)]
"""How many layers a net has on top of each other."""

Threads = Annotated[int, Field(gt=0, le=1_024)]
"""How many threads compute: more than any machine has cores, and systems refuse to start."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What random numbers are drawn from: as far as all libraries take it."""


def _rows_or_share(value: Any) -> int | float:
    if isinstance(value, bool) or not (
        (isinstance(value, int) and value > 0) or (isinstance(value, float) and 0 < value < 1)
    ):
        raise ValueError("should be a number of rows (an int above 0) or a share (a float between 0 and 1)")
    return value


Size = Annotated[int | float, PlainValidator(_rows_or_share)]
"""A part of the rows, in scikit-learn's convention: an int counts rows, a float is a share of all."""


class StageParams(BaseModel):
    """Base of every stage's `Params`: unknown keys are refused, nothing is coerced, nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Params = TypeVar("Params", bound=StageParams)


def read_params(section: str, model: type[Params]) -> Params:
    """Read and validate one section of `params.yaml` in the current folder.

    The file is read as YAML 1.2, as DVC reads it: `1e-3` is a number.

    Raises:
        StageError: The file or the section is missing, or a key is unknown, missing, of the wrong type or out of range;
            the message names the key, what was found and what is allowed.
    """
    sections = _read_file()
    if not isinstance(sections, dict) or not isinstance(sections.get(section), dict):
        if not isinstance(sections, dict):
            raise StageError(f"{PARAMS_FILE}: section {section!r} is missing; found {shown(sections)}")
        if section in sections:
            raise StageError(f"{PARAMS_FILE}: {section} = {shown(sections[section])}: expected a section of keys")
        found = [str(name) for name in sections]
        raise StageError(
            f"{PARAMS_FILE}: section {section!r} is missing{closest(section, found)}; found {shown(found)}"
        )
    try:
        return model.model_validate(sections[section])
    except ValidationError as error:
        problems = error.errors(include_url=False)
        messages = [explain(section, detail, model) for detail in problems[:MOST_PROBLEMS]]
        if len(problems) > MOST_PROBLEMS:
            messages.append(f"and {len(problems) - MOST_PROBLEMS} more")
        raise StageError(f"{PARAMS_FILE}: " + "; ".join(messages)) from None


def read_sections() -> dict[str, dict[str, Any]]:
    """All of `params.yaml` as plain data, to be shown: whatever computes with a section validates it by `read_params`.

    Raises:
        StageError: The file is missing or is not one section after the other.
    """
    sections = _read_file()
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise StageError(f"{PARAMS_FILE}: expected sections of keys and values")
    return sections


def _read_file() -> Any:
    try:
        content = read_bytes(PARAMS_FILE)
        if len(content) > MOST_BYTES:
            raise StageError(f"{PARAMS_FILE}: found {len(content):,} bytes; expected at most {MOST_BYTES:,}")
        return _parse(content.decode())
    except FileNotFoundError:
        raise StageError(f"{PARAMS_FILE}: no such file; run from the project's folder") from None
    except OSError as error:
        raise StageError(f"{PARAMS_FILE}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise StageError(f"{PARAMS_FILE}: line {line} is not UTF-8") from None
    except RecursionError:
        raise StageError(f"{PARAMS_FILE}: values are nested too deep") from None
    except StageError:
        raise
    except Exception as error:  # beside YAML's own: of a date or number that is none, a version that is unknown
        raise StageError(f"{PARAMS_FILE}: not valid YAML: {one_line(error)}") from None


@functools.cache
def _parse(text: str) -> Any:
    """The content of a YAML file: parsed once, however many sections a stage reads.

    Raises:
        StageError: It stands for too many values, or they are nested too deep for the parser to find that out soon.
    """
    brackets = re.sub(r"[^\[\]{}]", "", text)
    depths = itertools.accumulate(1 if bracket in "[{" else -1 for bracket in brackets)
    if max(depths, default=0) > MOST_NESTED or re.search(rf"([-?] +){{{MOST_NESTED}}}", text):
        raise RecursionError
    content = YAML(typ="safe", pure=True).load(text)
    waiting, values = [content], 0
    while waiting:
        value = waiting.pop()
        values += 1
        waiting += [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
        if values + len(waiting) > MOST_VALUES:
            raise StageError(f"{PARAMS_FILE}: found over {MOST_VALUES:,} values, aliases written out")
    return content


def explain(section: str, detail: Any, model: type[StageParams]) -> str:
    """Turn one of pydantic's findings into words: key, what was found, what is allowed."""
    location = [shortened(str(part)) for part in detail["loc"]]
    key = ".".join([section, *location])
    if detail["type"] == "extra_forbidden":
        for part in location[:-1]:
            kind = model.model_fields[part].annotation if part in model.model_fields else None
            inner = [kind, *get_args(kind)]  # a model, or a list or a dictionary of models
            model = next((one for one in inner if isinstance(one, type) and issubclass(one, StageParams)), model)
        allowed = list(model.model_fields)
        return f"unknown key {key}{closest(location[-1], allowed)}; allowed: {', '.join(allowed)}"
    if detail["type"] == "missing":
        return f"key {key} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "literal_error":
        message += closest(str(detail["input"]), re.findall("'(.*?)'", detail["ctx"]["expected"]))
    return f"{key} = {shown(detail['input'])}: {shortened(message[0].lower() + message[1:], LONGEST_MESSAGE)}"


def shown(value: Any) -> str:
    """A value of any size, as a message quotes it."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = MOST_SHOWN
    short.maxlist = short.maxdict = 30
    return short.repr(value)


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """The beginning of a long text."""
    return text if len(text) <= most else f"{text[:most]}..."


def closest(name: str, names: Iterable[Any] | None) -> str:
    """A suggestion for a misspelt name, or nothing."""
    close = difflib.get_close_matches(shortened(name), [shortened(str(other)) for other in names or []], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""

"""A section of params.yaml -> a validated, frozen object."""

import difflib
import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from shared.stage import StageError, one_line

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

PARAMS_FILE = Path("params.yaml")

Count = Annotated[int, Field(gt=0)]
"""How many of something: a positive integer."""


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
        found = list(sections) if isinstance(sections, dict) else sections
        raise StageError(f"{PARAMS_FILE}: section {section!r} is missing{closest(section, found)}; found {found}")
    try:
        return model.model_validate(sections[section])
    except ValidationError as error:
        messages = [_explain(section, detail, model) for detail in error.errors()]
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
        return _parse(PARAMS_FILE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StageError(f"{PARAMS_FILE}: no such file; run from the project's folder") from None
    except YAMLError as error:
        raise StageError(f"{PARAMS_FILE}: not valid YAML: {one_line(error)}") from None


@functools.cache
def _parse(text: str) -> Any:
    """The content of a YAML file: parsed once, however many sections a stage reads."""
    return YAML(typ="safe", pure=True).load(text)


def _explain(section: str, detail: Any, model: type[StageParams]) -> str:
    """Turn one of pydantic's findings into words: key, what was found, what is allowed."""
    location = [str(part) for part in detail["loc"]]
    key = ".".join([section, *location])
    if detail["type"] == "extra_forbidden":
        for part in location[:-1]:
            inner = model.model_fields[part].annotation if part in model.model_fields else None
            model = inner if isinstance(inner, type) and issubclass(inner, StageParams) else model
        allowed = list(model.model_fields)
        return f"unknown key {key}{closest(location[-1], allowed)}; allowed: {', '.join(allowed)}"
    if detail["type"] == "missing":
        return f"key {key} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "literal_error":
        message += closest(str(detail["input"]), re.findall("'(.*?)'", detail["ctx"]["expected"]))
    return f"{key} = {detail['input']!r}: {message[0].lower()}{message[1:]}"


def closest(name: str, names: Iterable[Any] | None) -> str:
    """A suggestion for a misspelt name, or nothing."""
    close = difflib.get_close_matches(name, [str(other) for other in names or []], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""

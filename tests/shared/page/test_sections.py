"""A section of the page is a module, a template beside it, and a place in the layout."""

from pathlib import Path
from typing import Any

from shared.judging.recommendation import Candidate
from shared.page import sections
from shared.page.page import name_of
from shared.page.sections.requirements import accelerators_in_words

import pytest

FOLDER = Path(sections.__file__).parent


def test_every_section_has_a_module_a_template_and_one_place() -> None:
    placed = sorted(name_of(section) for row in sections.LAYOUT for section in row)
    assert placed == sorted(file.stem for file in FOLDER.glob("*.py") if file.stem != "__init__")
    assert placed == sorted(file.name.removesuffix(".html.jinja") for file in FOLDER.glob("*.jinja"))


NONE = {"as_is": "no", "fixed_shapes": "no"}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, "\N{EN DASH}"),
        (
            {"accelerators": {"nnapi": NONE, "coreml_program": NONE, "coreml_neural_network": NONE}},
            "none: the CPU is best",
        ),
        (
            {
                "accelerators": {
                    "nnapi": {"as_is": "no", "fixed_shapes": "yes"},
                    "coreml_program": {"as_is": "maybe", "fixed_shapes": "yes"},
                    "coreml_neural_network": NONE,
                }
            },
            "NNAPI: yes, with fixed shapes; Core ML program: maybe",
        ),
    ],
)
def test_accelerators_are_named_with_what_the_checker_says_of_them(found: dict[str, Any], words: str) -> None:
    file = Candidate("onnx", "fp32", None, None, {"bytes": 1} | found, None, None, None)
    assert accelerators_in_words(file) == words

"""A section of the page is a module, a template beside it, and a place in the layout."""

from pathlib import Path

from shared.page import sections
from shared.page.page import name_of

FOLDER = Path(sections.__file__).parent


def test_every_section_has_a_module_a_template_and_one_place() -> None:
    placed = sorted(name_of(section) for row in sections.LAYOUT for section in row)
    assert placed == sorted(file.stem for file in FOLDER.glob("*.py") if file.stem != "__init__")
    assert placed == sorted(file.name.removesuffix(".html.jinja") for file in FOLDER.glob("*.jinja"))

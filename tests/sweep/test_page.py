"""The page of a sweep, in a real browser."""

from pathlib import Path

from commands.sweeps.pipeline import Pipeline
from commands.sweeps.space import read_space
from tests.support import ROOT
from tests.sweep.conftest import ALL, MISSING

import pytest

pytestmark = pytest.mark.skipif(bool(MISSING) and not ALL, reason="`make test-sweep` runs it")

SECTIONS = [
    "No other trial beats these in everything",
    "What mattered",
    "Parallel coordinates",
    "Failures",
    "All trials",
]


@pytest.fixture
def page(tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page of the committed space, after twelve trials whose figures follow from their parameters."""
    from commands.sweeps.page import write_page
    from commands.sweeps.study import Study

    monkeypatch.chdir(ROOT)
    space = read_space(ROOT / "sweeps" / "learning_rate.yaml", pipeline)
    study = Study(space, "study", tmp_path, 12)
    while asked := study.ask():
        name = f"sweep-{asked.number:012x}"
        size = next(value for key, value in asked.settings.items() if key.endswith("hidden_size"))
        if asked.number == 3:
            study.fail(asked.number, stage="train", error="the loss is nan <b>", name=name)
        elif asked.number == 4:
            study.stop(asked.number, name=name, figures={"train.validation_accuracy": 0.3})
        else:
            accuracy = 0.9 + asked.settings["train.learning_rate"] + size / 2000
            study.complete(asked.number, [accuracy, 250 * size], 0, name=name, seconds=20.0, ran=["train"])
    file = tmp_path / "index.html"
    write_page(file, study, space, title="learning_rate", revision="0" * 40)
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_stands_by_itself_on_a_phone(page: Path, scheme: str) -> None:
    from commands.screenshot import find_browser, launch

    from playwright.sync_api import sync_playwright

    program = find_browser()
    if program is None:
        assert not ALL, "no Chromium: make browser"
        pytest.skip("no Chromium: make browser")
    with sync_playwright() as playwright, launch(playwright, program) as browser:
        tab = browser.new_page(viewport={"width": 360, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        asked: list[str] = []
        told: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: told.append(message.text))
        tab.goto(page.as_uri())
        assert (asked, told) == ([page.as_uri()], [])
        assert tab.evaluate("document.documentElement.scrollWidth") == 360
        headings = tab.locator("h2").all_inner_texts()
        assert set(SECTIONS) <= set(headings)
        assert "evaluate.onnx.int8.accuracy against size.onnx.int8.bytes" in headings
        assert tab.locator(".card pre").first.inner_text().startswith("dvc exp apply sweep-")
        assert "the loss is nan <b>" in tab.locator("table").first.inner_text()
        light = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert light == (scheme == "light")

"""The report and DVC's plots in a real browser, without a network: on a phone, in dark mode, in print."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import report
from commands.offline_plots import PAGE, required_scripts
from commands.screenshot import find_browser, launch
from shared.kit.stage import run
from tests.report_inputs import File, default_files, write_inputs
from tests.support import Project, command, copy_repository, write_params

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

A4_CONTENT = 703  # CSS pixels between the margins that the page asks for: 186 mm
LEAST_CONTRAST = 4.5  # WCAG 2.2, AA, for text

CONTRASTS = """() => {
  const parse = text => {
    const numbers = text.match(/[-\\d.e]+/g).map(Number);
    const scale = text.startsWith('color(') ? 255 : 1;
    return {rgb: numbers.slice(0, 3).map(n => n * scale), alpha: numbers.length > 3 ? numbers[3] : 1};
  };
  const luminance = rgb => {
    const [r, g, b] = rgb.map(n => n / 255).map(n => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    let ground = [255, 255, 255];
    for (let outer = element; outer; outer = outer.parentElement) {
      const {rgb, alpha} = parse(getComputedStyle(outer).backgroundColor);
      if (alpha === 1) { ground = rgb; break; }
      if (alpha !== 0) throw new Error('a half transparent ground: ' + outer.outerHTML.slice(0, 80));
    }
    const a = luminance(parse(element.closest('svg') ? style.fill : style.color).rgb), b = luminance(ground);
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), text.slice(0, 40)]);
  }
  return found;
}"""

SHADES = """[...document.querySelectorAll('canvas')].map(
  canvas => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size
)"""


@dataclass
class Visit:
    """A page that a browser without a network has opened, and what happened meanwhile."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def visit(context: BrowserContext, file: Path) -> Visit:
    found = Visit(context.new_page())
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.on("pageerror", lambda error: found.errors.append(str(error)))
    found.page.on(
        "console", lambda message: found.errors.append(message.text) if message.type in {"error", "assert"} else None
    )
    found.page.goto(file.as_uri())
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        reason = "neither Chromium nor Chrome was found; `make browser` installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright, launch(playwright, program) as launched:
        yield launched


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a report: a usual one, one of many classes and variants, one without a file to recommend."""
    many = default_files() | {
        ("onnx", f"another_variant_{index}"): File(12_000 + 1500 * index, 0.0003 * index, 1e-3, flips=index)
        for index in range(8)
    }
    none = {("onnx", "fp32"): File(45_650, 0.2, 0.3, ["graph: far off"])}
    kinds: dict[str, tuple[dict[tuple[str, str], File], list[str]]] = {
        "usual": (default_files(), ["0", "1", "2"]),
        "many": (many, [f"walking_upstairs_{index}" for index in range(20)]),
        "none": (none, ["yes", "no"]),
    }
    folders = {}
    for name, (files, classes) in kinds.items():
        folder = folders[name] = tmp_path_factory.mktemp(name)
        write_params(folder)
        write_inputs(folder, files, classes)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "argv", command("report")[1:])
            run(report.main)
    return folders


@pytest.mark.parametrize("kind", ["usual", "many", "none"])
def test_the_report_is_readable_at_every_width_in_light_and_dark(
    browser: Browser, pages: dict[str, Path], kind: str
) -> None:
    file = pages[kind] / "metrics" / "report.html"
    grounds = set()
    for scheme in ("light", "dark"):
        with browser.new_context(color_scheme=scheme, offline=True) as context:
            opened = visit(context, file)
            for width in (360, 768, 1280):
                opened.page.set_viewport_size({"width": width, "height": 800})
                assert opened.page.evaluate("document.documentElement.scrollWidth") == width
                outside = (
                    "[...document.querySelectorAll('svg, p, h2, dl, .card')].filter(e => e.getBoundingClientRect()"
                )
                assert opened.page.evaluate(f"{outside}.right > innerWidth).length") == 0
            contrasts = opened.page.evaluate(CONTRASTS)
            assert len(contrasts) > 100
            assert min(contrasts)[0] >= LEAST_CONTRAST, min(contrasts)
            grounds.add(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert opened.requests == [file.as_uri()]
            assert opened.errors == []
    assert len(grounds) == 2


def test_on_a_phone_a_wide_table_scrolls_in_its_own_box_and_its_first_column_stays(
    browser: Browser, pages: dict[str, Path]
) -> None:
    with browser.new_context(viewport={"width": 360, "height": 740}, offline=True) as context:
        page = visit(context, pages["usual"] / "metrics" / "report.html").page
        table = page.locator(".scroll", has_text="Executed by").first
        name = table.get_by_role("rowheader", name="int8_static")
        before = name.bounding_box()
        assert table.evaluate("box => box.scrollWidth > box.clientWidth")
        table.evaluate("box => box.scrollBy(200, 0)")
        assert table.evaluate("box => box.scrollLeft") == 200
        assert name.bounding_box() == before


@pytest.mark.parametrize("kind", ["usual", "many"])
def test_the_report_prints_on_a4_in_light_colours_with_nothing_cut_off(
    browser: Browser, pages: dict[str, Path], kind: str
) -> None:
    with browser.new_context(
        viewport={"width": A4_CONTENT, "height": 1000}, color_scheme="dark", offline=True
    ) as context:
        page = visit(context, pages[kind] / "metrics" / "report.html").page
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert min(page.evaluate(CONTRASTS))[0] >= LEAST_CONTRAST
        boxes = "[...document.querySelectorAll('.scroll')].map(box => getComputedStyle(box).overflowX)"
        assert set(page.evaluate(boxes)) == {"visible"}
        # What is wider than the sheet, the browser prints smaller, whole page and all.
        assert page.evaluate("document.documentElement.scrollWidth") <= A4_CONTENT * (1 if kind == "usual" else 1.3)
        pdf = page.pdf(prefer_css_page_size=True, print_background=True)
    assert pdf.startswith(b"%PDF")
    assert re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)[0] in {
        (b"595", b"842"),
        (b"594.95996", b"841.91998"),
    }
    assert 2 <= len(re.findall(rb"/Type /Page\b", pdf)) <= 20


def test_dvc_s_plots_show_without_a_network(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    project: Project = copy_repository(tmp_path / "project")
    shutil.copytree(pages["usual"] / "metrics", project.folder / "metrics")
    project.dvc("plots", "show")
    index = project.folder / "dvc_plots" / "index.html"
    with browser.new_context(viewport={"width": 1280, "height": 800}, offline=True) as context:
        opened = visit(context, index)
        opened.page.wait_for_function("document.querySelectorAll('.vega-embed canvas').length == 3")
        shades = opened.page.evaluate(SHADES)
        assert len(shades) == 3
        assert min(shades) > 20
        assert opened.page.evaluate("[...document.images].map(image => image.naturalWidth > 300)") == [True] * 4
        assert opened.errors == []
        assert all(url.startswith(index.parent.as_uri()) for url in opened.requests)


def test_the_scripts_in_dvc_s_page_are_those_that_dvc_asks_for() -> None:
    """If not, run `python commands/offline_plots.py`."""
    page = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^<!-- ([\w-]+)@([\d.]+)$", page, flags=re.MULTILINE) == required_scripts()
    assert page.count("Redistribution and use in source and binary forms") == len(required_scripts())

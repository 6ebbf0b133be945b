"""The page that runs the model, in a real browser, from a file, without a network."""

import base64
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import compress_onnx
import export_onnx
from commands.on_device import build_node
from commands.screenshot import find_browser, launch
from release import RELEASE
from shared.data.sequences import Prepared, SplitArrays
from shared.execution.runtimes import open_runtime
from shared.files.artifacts import find_artifacts
from shared.kit.stage import StageError
from shared.network.model import Checkpoint
from shared.release.golden import ask, choose_vectors
from shared.release.verify_bundle import largest_error, open_onnx
from shared.release.webpage import Sources, as_constant, describe, describe_run, read_sources, render
from tests.support import EXPORT_NAMES, ROOT, classifier, clean_environment, write_prepared
from tests.test_browser import CONTRASTS, LEAST_CONTRAST, Visit, visit

import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright

WEB = ROOT / "web"
CLASSES = ["walk", "</script><b>run</b>", "\u202erest"]
ASK = "([name, sequence, length]) => classifier.logitsOf(name, sequence, length)"


@pytest.fixture(scope="module")
def sources() -> Sources:
    return read_sources(WEB)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_browser()
    assert program, "neither Chromium nor Chrome was found; `make browser` installs it"
    with sync_playwright() as playwright, launch(playwright, program) as started:
        yield started


@pytest.fixture(scope="module")
def tutorial(small_run: Path) -> dict[str, Any]:
    """The model of the small run, in three variants."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(small_run)
        return describe_run(small_run)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A team's own: two features, up to five steps, classes with odd names. The model, and its folder."""
    folder = tmp_path_factory.mktemp("own")
    random = np.random.default_rng(0)
    rows = SplitArrays(
        random.normal(size=(30, 5, 2)).astype(np.float32), np.arange(30) % 3, (1 + np.arange(30) % 5).astype(np.int32)
    )
    write_prepared(folder / "prepared", {"train": rows, "validation": rows, "test": rows}, ["ax", "ay"], CLASSES)
    data = Prepared(folder / "prepared")
    (folder / "onnx").mkdir()
    content = export_onnx.export_onnx(Checkpoint(classifier("gru", ragged=True), {}), EXPORT_NAMES, 20).lean
    (folder / "onnx" / "classifier-fp32.onnx").write_bytes(content)
    params = compress_onnx.Params(variants=["int8_weights"], minimum_share=0.5, calibration_rows=8)
    small = compress_onnx.compress(content, compress_onnx.RECIPES["int8_weights"], data, params)
    (folder / "onnx" / "classifier-int8_weights.onnx").write_bytes(small)
    vectors = choose_vectors(data, random.normal(size=(30, 3)).astype(np.float32), seed=0)
    export = EXPORT_NAMES.model_copy(update={"description": "An <i>own</i> model"})
    asked = {variant: ask(path, vectors) for variant, path in find_artifacts(folder / "onnx").items()}
    return describe(data, asked, vectors, {}, export), folder


def opened(browser: Browser, page: bytes, folder: Path, **options: Any) -> Visit:
    """The page, from a file, when it is ready; the browser has no network."""
    (folder / "model.html").write_bytes(page)
    context = browser.new_context(offline=True, **options)
    found = visit(context, folder / "model.html")
    found.page.evaluate("classifier.ready")
    found.page.wait_for_function("document.getElementById('answer').textContent !== ''")
    return found


def golden_verdict(found: Visit) -> str:
    found.page.click("#verify")
    found.page.wait_for_function("document.getElementById('verdict').textContent !== ''")
    return found.page.inner_text("#verdict")


def test_it_computes_what_onnx_runtime_computes_here(
    browser: Browser, sources: Sources, tutorial: dict[str, Any], small_run: Path, tmp_path: Path
) -> None:
    found = opened(browser, render(sources, tutorial), tmp_path)
    test = Prepared(small_run / "data" / "prepared").split("test").sequences[:40]
    for variant, path in find_artifacts(small_run / "models" / "onnx").items():
        runtime = open_runtime(path)
        expected = np.concatenate([runtime.logits(np.array(row)[None]) for row in test])
        logits = np.array([found.page.evaluate(ASK, [path.name, row.tolist(), len(row)]) for row in test])
        error = np.abs(logits - expected).max() / np.abs(expected).max()
        assert error <= (1e-5 if variant == "fp32" else 1e-3), variant
        assert (logits.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert golden_verdict(found) == "✓ This browser computes what was verified."
    assert found.requests == [(tmp_path / "model.html").as_uri()]
    assert found.errors == []


def test_it_follows_a_schema_of_one_s_own(
    browser: Browser, sources: Sources, own: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    model, folder = own
    found = opened(browser, render(sources, model), tmp_path)
    assert golden_verdict(found) == "✓ This browser computes what was verified."
    assert found.page.inner_text("header").count("An <i>own</i> model") == 1
    assert found.page.locator("#bars span:first-child").all_inner_texts() == CLASSES
    assert found.page.locator("b").count() == 0
    assert found.page.locator("#feature option").all_inner_texts() == ["ax", "ay"]

    found.page.click("[data-view=paste]")
    found.page.fill("#rows", "ax,ay\n1,2,3,4\n0,0,0,0,0,0,0,0,0,0\n")
    found.page.click("#ask")
    found.page.wait_for_selector("#answers td")
    runtime = open_runtime(folder / "onnx" / "classifier-fp32.onnx")
    batch = np.zeros((2, 5, 2), np.float32)
    batch[0, :2] = [[1, 2], [3, 4]]
    best = runtime.logits(batch, np.array([2, 5], np.int32)).argmax(axis=1)
    assert found.page.locator("#answers td:nth-child(2)").all_inner_texts() == [CLASSES[index] for index in best]
    assert found.errors == []


BAD_ROWS = {
    "1,2,3\n": "row 1: 3 values; expected 2 for each step",
    "1,2\n1,x\n": "row 2, value 2: “x” is no number",
    "1,2,3,4,5,6,7,8,9,10,11,12\n": "row 1: 6 time steps; the model takes 1 to 5",
}


def test_pasted_rows_that_do_not_fit_are_named(
    browser: Browser, sources: Sources, own: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    found = opened(browser, render(sources, own[0]), tmp_path)
    found.page.click("[data-view=paste]")
    for rows, message in BAD_ROWS.items():
        found.page.fill("#rows", rows)
        found.page.click("#ask")
        found.page.wait_for_selector(f"#answers td:text-is('{message}')")


def test_a_file_that_computes_something_else_is_red(
    browser: Browser, sources: Sources, tutorial: dict[str, Any], tmp_path: Path
) -> None:
    damaged = json.loads(json.dumps(tutorial))
    name = damaged["files"][-1]["name"]
    for vector in damaged["golden"]:
        vector["logits"][name] = [logit + 0.2 for logit in vector["logits"][name]]
    found = opened(browser, render(sources, damaged), tmp_path)
    assert golden_verdict(found) == "✗ This browser does not compute what was verified."
    cells = found.page.locator("[id^=golden-]").all_inner_texts()
    assert [cell[0] for cell in cells] == ["✓"] * (len(cells) - 1) + ["✗"]


def test_all_verifiers_compute_one_figure(
    browser: Browser, sources: Sources, tutorial: dict[str, Any], tmp_path: Path
) -> None:
    """The page, node's and the bundle's own: of a file that is off in one logit of one vector."""
    model = json.loads(json.dumps(tutorial))
    name, vectors = model["files"][0]["name"], model["golden"]
    vectors[3]["logits"][name][1] += 0.5
    logits = np.array([vector["logits"][name] for vector in vectors])
    signature = {
        "inputs": [{"name": model["interface"]["input"]}], "outputs": [{"name": model["interface"]["output"]}]
    }  # fmt: skip
    (tmp_path / name).write_bytes(base64.b64decode(model["files"][0]["bytes"]))
    for file, content in {
        "release.json": {"models": {name: {"tolerance": 0.01}}}, "signature.json": {name: signature},
        "golden.json": {"vectors": vectors},
    }.items():  # fmt: skip
        (tmp_path / file).write_text(json.dumps(content))
    arrays = {
        "sequences": np.array([vector["sequence"] for vector in vectors], np.float32),
        "lengths": np.array([vector["length"] for vector in vectors]),
    }
    run = open_onnx(tmp_path / name, model["interface"]["output"])
    expected = f"{largest_error(run, signature, arrays, logits):.1e}".replace("e-0", "e-")
    ran = subprocess.run(
        [*build_node(RELEASE, tmp_path), tmp_path], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1, ran.stderr
    assert f"{name}  WRONG: error {expected}, allowed 0.01" in ran.stdout
    found = opened(browser, render(sources, model), tmp_path)
    assert golden_verdict(found) == "✗ This browser does not compute what was verified."
    assert found.page.inner_text("#golden-0") == f"✗ 1 of {len(vectors)} differ ({expected})"


def test_typing_dragging_and_drawing_change_the_answer(
    browser: Browser, sources: Sources, tutorial: dict[str, Any], tmp_path: Path
) -> None:
    found = opened(browser, render(sources, tutorial), tmp_path)

    def logits() -> Any:
        sequence = [[float(box.input_value())] for box in found.page.locator("#numbers input[type=number]").all()]
        return found.page.evaluate(ASK, ["classifier-fp32.onnx", sequence, len(sequence)])

    before = logits()
    found.page.fill("#value-0", "9.5")
    typed = logits()
    found.page.locator("#numbers input[type=range]").first.focus()
    found.page.keyboard.press("Home")
    dragged = logits()
    assert before != typed != dragged
    assert float(found.page.input_value("#value-0")) == tutorial["range"][0][0]

    found.page.click("[data-view=curve]")
    canvas = found.page.locator("#canvas").bounding_box()
    assert canvas
    found.page.mouse.move(canvas["x"] + 5, canvas["y"] + 1)
    found.page.mouse.down()
    found.page.mouse.move(canvas["x"] + canvas["width"] - 5, canvas["y"] + 1, steps=8)
    found.page.mouse.up()
    found.page.click("[data-view=numbers]")
    drawn = [float(box.input_value()) for box in found.page.locator("#numbers input[type=number]").all()]
    high = tutorial["range"][0][1]
    assert drawn == pytest.approx([high] * len(drawn), abs=0.1)
    assert found.errors == []


def test_it_is_readable_at_every_width_in_light_and_dark(
    browser: Browser, sources: Sources, tutorial: dict[str, Any], tmp_path: Path
) -> None:
    found = opened(browser, render(sources, tutorial), tmp_path)
    for width in (360, 1280):
        found.page.set_viewport_size({"width": width, "height": 800})
        assert found.page.evaluate("document.documentElement.scrollWidth") <= width
        for scheme in ("light", "dark"):
            found.page.emulate_media(color_scheme=scheme)
            unreadable = [text for contrast, text in found.page.evaluate(CONTRASTS) if contrast < LEAST_CONTRAST]
            assert unreadable == [], (width, scheme)


def test_equal_runs_give_equal_pages_of_five_megabytes(sources: Sources, tutorial: dict[str, Any]) -> None:
    page = render(sources, tutorial)
    assert page == render(sources, tutorial)
    assert len(page) < 6e6


def test_the_policy_allows_nothing_but_what_the_page_holds(sources: Sources, tutorial: dict[str, Any]) -> None:
    found = re.search(rb'http-equiv="Content-Security-Policy" content="([^"]*)"', render(sources, tutorial))
    assert found
    policy = found[1].decode().replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy
    assert "'unsafe-eval'" not in policy
    assert "http" not in policy


def test_another_version_of_the_runtime_is_told(sources: Sources, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="its script does not end with its exports"):
        render(replace(sources, runtime_script="export default 1;"), {})
    assert as_constant("let a=1;export{a as b,a as default};", "ort") == "let a=1;\nconst ort = { b: a, default: a };\n"
    with pytest.raises(StageError, match="onnxruntime-web is not installed; `make web` installs it"):
        read_sources(tmp_path)


def test_the_demo_serves_the_page_on_this_machine_alone(small_run: Path) -> None:
    command = [sys.executable, str(ROOT / "commands" / "demo.py"), "--port", "0"]
    with subprocess.Popen(command, cwd=small_run, env=clean_environment(), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            [address] = re.findall(r"^(http://127\.0\.0\.1:\d+/)", server.stdout.readline())
            with urllib.request.urlopen(address, timeout=20) as answer:
                assert answer.read().startswith(b"<!doctype html>")
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{address}params.yaml", timeout=20)
        finally:
            server.terminate()

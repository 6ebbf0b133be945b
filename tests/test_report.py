"""One page with everything in it, and its pictures."""

import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO

from tests.support import Workspace

import matplotlib.image as mpl_image
import numpy as np
import pytest


class Page(HTMLParser):
    """A page's text, and what it refers to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def page(workspace: Workspace) -> Page:
    return Page((workspace.folder / "metrics" / "report.html").read_text())


def test_the_page_needs_no_other_file(workspace: Workspace) -> None:
    html = (workspace.folder / "metrics" / "report.html").read_text()
    found = Page(html)
    assert len(found.references) == 2
    assert all(reference.startswith("data:image/png;base64,") for reference in found.references)
    assert not found.tags & {"script", "link", "iframe"}
    assert not re.search(r"https?://|@import|url\(", html)


def test_the_pictures_are_the_ones_beside_it_and_show_something(workspace: Workspace) -> None:
    embedded = [base64.b64decode(reference.partition(",")[2]) for reference in page(workspace).references]
    beside = [(workspace.folder / "metrics" / name).read_bytes() for name in ("loss.png", "confusion.png")]
    assert embedded == beside
    for content in beside:
        pixels = mpl_image.imread(BytesIO(content), format="png")
        assert min(pixels.shape[:2]) > 300
        assert np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0).shape[0] > 20


def test_the_figures_are_those_of_the_metrics(workspace: Workspace) -> None:
    text = page(workspace).text
    metrics = workspace.folder / "metrics"
    evaluated, verified = (json.loads((metrics / f"{name}.json").read_text()) for name in ("evaluate", "verify"))
    assert "Each of the 3 exported files was executed on the test split and computes what PyTorch computes." in text
    for file_format, precisions in evaluated.items():
        for precision, figures in precisions.items():
            assert f"{file_format} {precision}" in text
            assert f"{100 * figures['accuracy']:.2f} %" in text
    assert f"{verified['coreml']['fp16']['relative_error']:.1e}" in text
    assert text.count("✓ verified") == 3


def test_a_failed_verification_is_the_first_thing_that_the_page_says(workspace: Workspace) -> None:
    workspace.set("verify.tolerance.coreml.fp16.relative_error", 1e-12)
    workspace.refuses("verify", changes=("metrics/verify.json",))
    workspace.call("report")
    text = page(workspace).text
    assert "1 of 3 exported files do not compute what PyTorch computes." in text
    assert "Each of the" not in text
    assert (text.count("✓ verified"), text.count("✗ failed")) == (2, 1)
    assert "coreml fp16: values: relative error" in text


@pytest.mark.parametrize("missing", ["not executed", "not verified"])
def test_a_file_without_figures_is_no_pass(workspace: Workspace, missing: str) -> None:
    verified_file = workspace.folder / "metrics" / "verify.json"
    verified = json.loads(verified_file.read_text())
    if missing == "not executed":
        verified["onnx"]["fp32"] = {"problems": ["executed: no prediction was found"], "passed": False}
    else:
        del verified["onnx"]
    verified_file.write_text(json.dumps(verified))
    workspace.call("report")
    text = page(workspace).text
    assert "1 of 3 exported files" in text
    assert text.count("✗ failed") == 1


def test_a_class_without_rows_has_no_recall(workspace: Workspace) -> None:
    evaluated_file = workspace.folder / "metrics" / "evaluate.json"
    evaluated = json.loads(evaluated_file.read_text())
    for precisions in evaluated.values():
        for figures in precisions.values():
            figures["recall"]["2"] = None
    evaluated_file.write_text(json.dumps(evaluated))
    workspace.call("report")
    assert page(workspace).text.count("—") == 4


def test_names_are_escaped(workspace: Workspace) -> None:
    evaluated_file = workspace.folder / "metrics" / "evaluate.json"
    evaluated_file.write_text(evaluated_file.read_text().replace('"2":', '"<b>two</b>":'))
    workspace.call("report")
    found = page(workspace)
    assert "b" not in found.tags
    assert "<b>two</b>" in found.text

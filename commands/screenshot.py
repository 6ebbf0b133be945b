"""Take a picture of a page in a headless browser: `python commands/screenshot.py metrics/report.html docs/report.png`.

Needs Chromium or Chrome (`make browser` installs it).
"""

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, Playwright, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC_PROGRAM = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


def find_browser() -> str | None:
    """The program of an installed Chromium or Chrome; None if there is none."""
    found = [path for program in PROGRAMS if (path := shutil.which(program))]
    return found[0] if found else str(MAC_PROGRAM) if MAC_PROGRAM.exists() else None


def launch(playwright: Playwright, program: str) -> Browser:
    """Start a browser; without its sandbox, which root may not use and our own page does not need."""
    return playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])


def main() -> None:
    """Read the arguments; write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, help="an HTML file")
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    parser.add_argument("--width", type=int, default=1280, help="of the window, in pixels")
    parser.add_argument("--height", type=int, default=0, help="of the picture, in pixels; 0: the whole page")
    parser.add_argument("--dark", action="store_true", help="in dark mode")
    args = parser.parse_args()
    program = find_browser()
    if program is None:
        sys.exit("screenshot: error: neither Chromium nor Chrome was found; `make browser` installs it")
    with sync_playwright() as playwright, launch(playwright, program) as browser:
        page = browser.new_page(
            viewport={"width": args.width, "height": args.height or 800},
            color_scheme="dark" if args.dark else "light",
        )
        page.goto(args.page.resolve().as_uri())
        page.screenshot(path=args.picture, full_page=not args.height)


if __name__ == "__main__":
    main()

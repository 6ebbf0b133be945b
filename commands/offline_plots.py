"""Write .dvc/plots.html: the page of `dvc plots`, with the scripts inside that DVC's own page fetches from a CDN.

The result is committed, so that plots show without a network; run this again when DVC asks for other versions of the
scripts (`make test` says so). Needs npm.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from dvc_render.vega import VegaRenderer

PAGE = Path(__file__).resolve().parents[1] / ".dvc" / "plots.html"
TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh_tag}
<title>Plots</title>
<style>
  body { font-family: system-ui, sans-serif; margin: 1rem; }
  img { max-width: min(100%, 44vw); max-height: 30rem; }
  .vega-embed { max-width: 100%; overflow-x: auto; }
</style>
SCRIPTS</head>
<body>
{plot_divs}
</body>
</html>
"""
PLACEHOLDERS = ("{scripts}", "{plot_divs}", "{refresh_tag}")


def required_scripts() -> list[tuple[str, str]]:
    """Name and version of each script that DVC's page asks for, in its order."""
    return re.findall(r"/npm/([\w-]+)@([\d.]+)", VegaRenderer.SCRIPTS)


def fetch(name: str, version: str) -> tuple[str, str]:
    """The licence and the minified script that npm's package of this version holds."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=folder, check=True, stdout=sys.stderr)
        with tarfile.open(Path(folder) / f"{name}-{version}.tgz") as package:
            files = [package.extractfile(f"package/{path}") for path in ("LICENSE", f"build/{name}.min.js")]
            licence, script = (file.read().decode() for file in files if file is not None)
    return licence, script


def inline(name: str, version: str) -> str:
    """A script element that holds the script and its licence."""
    licence, script = fetch(name, version)
    script = re.sub(r"\n//# sourceMappingURL=.*", "", script).strip().replace("</script", r"<\/script")
    if any(placeholder in script for placeholder in PLACEHOLDERS):
        sys.exit(f"offline_plots: error: {name}@{version} holds a placeholder that DVC would replace")
    return f"<!-- {name}@{version}\n{licence.strip()}\n-->\n<script>{script}</script>\n"


def main() -> None:
    """Fetch the scripts; write the page."""
    scripts = "".join(inline(name, version) for name, version in required_scripts())
    PAGE.write_text(TEMPLATE.replace("SCRIPTS", scripts), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Write an inspection as one self-contained HTML file, which opens in any browser without a network."""

from __future__ import annotations

import html
import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2demo.storage import write_text

if TYPE_CHECKING:
    from gpt2demo.inspection.report import Inspection

TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ max-width: 1100px; margin: 24px auto; padding: 0 16px; }}
{style}
</style>
<h1 style="font: 600 20px system-ui, sans-serif">{title}</h1>
<div id="inside"></div>
<script type="application/json" id="data">{data}</script>
<script>
{script}
showInside(document.getElementById("inside"), JSON.parse(document.getElementById("data").textContent));
</script>
</html>
"""


def asset(name: str) -> str:
    """Return a file of this package, `views.js` or `views.css`."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def page(inspection: Inspection) -> str:
    """Return the HTML page of an inspection."""
    data = json.dumps(inspection.as_dict()).replace("<", "\\u003c")  # no text can end the script element
    title = html.escape(f"{inspection.model}: a look inside")
    return TEMPLATE.format(title=title, style=asset("views.css"), script=asset("views.js"), data=data)


def write_page(inspection: Inspection, path: Path) -> None:
    """Write the HTML page of an inspection. Raises a CheckpointError if the file cannot be written."""
    write_text(path, page(inspection))

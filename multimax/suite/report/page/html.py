"""The page itself: one file that contains its style, scripts and data.

Whatever comes from a run is data, which the script puts on the page as text. The page's content security policy forbids
all other scripts, and fetching anything but the pictures next to it.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

SCRIPTS = (
    "dom", "state", "series", "marks", "scale", "plot", "panels", "filters", "cells", "groups", "tables", "download",
    "forest", "findings", "compare", "details", "pictures", "main",
)  # fmt: skip
"""Joined in this order into one script."""


def page(data: Mapping[str, Any]) -> bytes:
    """The page for ``data``, which ``data.page_data`` describes; the same bytes for the same data."""
    style = asset("page.css")
    script = '"use strict";\n' + "\n".join(asset(f"{name}.js") for name in SCRIPTS)
    parts = {
        "policy": "default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' file: data:; "
        f"style-src {source(style)}; script-src {source(script)}",
        "style": style,
        "script": script,
        "data": embedded(data),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], asset("page.html")).encode()


def asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def source(content: str) -> str:
    """The hash by which a content security policy identifies an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def embedded(data: Mapping[str, Any]) -> str:
    """JSON in which no string can close the script element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text

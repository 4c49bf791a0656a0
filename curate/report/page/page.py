"""Put the sections into one HTML file that loads nothing and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from curate import __version__
from curate.report.page.material import Material
from curate.report.page.sections import all_sections
from curate.report.palette import page_style
from curate.runtime.escape import visible

GENERATOR = "curate report"
"""Name in the page's head by which curate knows its own reports."""

SCRIPTS = ("law.js", "explorer.js", "page.js")


def render(material: Material) -> str:
    """Return the page.

    Text from the evidence is escaped by the template; its invisible characters and those that
    change the direction of writing become visible escapes. It is passed to the scripts as JSON in
    an inert element. The page's Content-Security-Policy forbids every connection, and every script
    and style whose hash it does not name.
    """
    environment = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style, script = page_style() + _read("page.css"), "\n".join(_read(name) for name in SCRIPTS)
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = environment.get_template("page.html").render(
        generator=GENERATOR,
        version=__version__,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        title=material.title,
        sections=all_sections(material),
        explorer=material.explorer,
        data=Markup(_inert(material.explorer or {})),
    )
    return visible(page, keep="\n\t")  # our own text, scripts and JSON have no such characters


def _read(name: str) -> str:
    return (files("curate.report.page") / name).read_text("utf-8")


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _inert(data: Mapping[str, Any]) -> str:
    r"""Write JSON that no HTML parser takes for markup.

    Example:
        >>> _inert({"name": "</script>"})
        '{"name": "\\u003c/script>"}'
    """
    text = json.dumps(data, allow_nan=False)
    return text.replace("<", "\\u003c").replace("&", "\\u0026")

"""Sphinx settings: MyST Markdown, the furo theme, and tables generated from the code.

Build with `python -m sphinx -W --keep-going docs docs/_build`. The pages between a
`<!-- generated: NAME -->` comment and its end are written by `tools/reference.py`; the build
writes them anew in memory, so that a page never shows a table that the code has left behind.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import reference  # noqa: E402

import curate  # noqa: E402

project = "curate"
author = "the curate authors"
copyright = author  # noqa: A001 - the name that Sphinx reads
version = release = curate.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"curate {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
default_role = "code"


def refresh_generated_tables(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace the generated parts of a page by what the code says now."""
    source[0] = reference.refresh(source[0])


def setup(app: Sphinx) -> None:
    """Register the hook that refreshes generated tables."""
    app.connect("source-read", refresh_generated_tables)

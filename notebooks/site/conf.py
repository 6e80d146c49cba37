"""Settings of the documentation: guides, notebooks that are executed, and the reference of the public names."""

import os
import re
from importlib.metadata import version as version_of
from typing import Any

# The smoke size, at which the tests run the notebooks too; PROBMODEL_QUICK=0 builds the site with full-size ones.
os.environ.setdefault("PROBMODEL_QUICK", "1")
os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")

project, author = "probmodel", "The probmodel authors"
project_copyright = author
release = version = version_of("probmodel")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme, html_title = "furo", f"probmodel {release}"
exclude_patterns = ["**.ipynb_checkpoints", "site"]
default_role = "code"
suppress_warnings = ["mystnb.unknown_mime_type", "myst.xref_missing", "misc.highlighting_failure"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_custom_sections = [("Reference", "notes_style")]
napoleon_use_rtype = False


def escaped(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with code in backticks: every other mark of reStructuredText is taken literally."""

    def plain(text: str) -> str:
        return re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", re.sub(r"([*|])", r"\\\1", text))

    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(`[^`]*`)", line)
            lines[i] = "".join(part if part.startswith("`") else plain(part) for part in parts)


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", escaped, priority=100)

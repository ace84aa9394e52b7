"""Configuration of the documentation (`make docs`)."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from typing import Any

from sphinx.application import Sphinx

from isovi import __version__

project = "isoVI"
author = "isoVI developers"
project_copyright = f"2026, {author}"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]

# Links to the pages of other projects need their inventories: `make docs` must pass without a network.
if os.environ.get("READTHEDOCS") or os.environ.get("ISOVI_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
intersphinx_mapping = {
    "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
    "matplotlib": ("https://matplotlib.org/stable/", None),
    "numpy": ("https://numpy.org/doc/stable/", None),
    "pandas": ("https://pandas.pydata.org/docs/", None),
    "python": ("https://docs.python.org/3/", None),
    "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
    "scvi-tools": ("https://docs.scvi-tools.org/en/stable/", None),
    "spatialdata": ("https://spatialdata.scverse.org/en/stable/", None),
}

nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(scvi|spatialdata)\..*")]  # documented where this build cannot look

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Tutorials are run anew at each build; `-D nb_execution_mode=off` leaves them out while prose is written.
nb_execution_mode = "force"
nb_execution_timeout = 600  # seconds a cell: machines that build pages may be busy
nb_execution_raise_on_error = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # no progress bar is shown, so nothing is to be fetched

autodoc_inherit_docstrings = False  # scvi-tools' docstrings hold references that only its own build resolves
autodoc_member_order = "bysource"
# scikit-learn's own, made at run time, with references that only its build resolves
autodoc_default_options = {"exclude-members": "set_fit_request, set_predict_request, set_place_request"}
autodoc_typehints = "none"  # signatures of the backbones run over pages; the docstrings name what matters
autosummary_generate = True
napoleon_google_docstring = False
napoleon_attr_annotations = False  # the docstrings give shapes and units instead
napoleon_use_rtype = False
napoleon_custom_sections = ["Result"]  # see prose_of_returns

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_title = "isoVI"
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {
    "show_toc_level": 2,
    "navbar_persistent": [],  # the sidebar has the search
    "logo": {"text": "isoVI", "alt_text": "isoVI"},
    "repository_url": "https://github.com/isovi/isovi",
    "use_repository_button": True,
    "use_issues_button": True,
    "use_download_button": True,  # a tutorial as a notebook
}


def prose_of_returns(*given: Any) -> None:
    """Text under "Returns" is one text; napoleon would take each of its lines for a type."""
    lines = given[-1]
    rules = [row for row, line in enumerate(lines) if re.fullmatch(r"-{3,}", line.strip())]
    for rule, after in pairwise([*rules, len(lines) + 1]):
        if lines[rule - 1].strip() == "Returns" and not names_values(lines[rule + 1 : after - 1]):
            lines[rule - 1] = "Result"


def names_values(text: list[str]) -> bool:
    """Whether names stand with their descriptions indented below them."""
    return any(line.startswith(" ") and not before.startswith(("-", " ")) for before, line in pairwise(text))


def setup(app: Sphinx) -> None:
    """Before napoleon, which has priority 500."""
    app.connect("autodoc-process-docstring", prose_of_returns, priority=400)

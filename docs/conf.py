"""Configuration of the documentation (`make docs`)."""

from __future__ import annotations

from isovi import __version__

project = "isoVI"
author = "isoVI developers"
project_copyright = f"2026, {author}"
release = version = __version__

# No intersphinx: the build must pass without a network.
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_inherit_docstrings = False  # scvi-tools' docstrings hold references that only its own build resolves
autodoc_member_order = "bysource"
# scikit-learn's own, made at run time, with references that only its build resolves
autodoc_default_options = {"exclude-members": "set_fit_request, set_predict_request, set_place_request"}
autodoc_typehints = "none"  # signatures of the backbones run over pages; the docstrings name what matters
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = "isoVI"
html_theme_options = {"show_toc_level": 2}

"""Configuration of the documentation (`make docs`)."""

from __future__ import annotations

from isovi import __version__

project = "isoVI"
author = "isoVI developers"
project_copyright = f"2026, {author}"
release = version = __version__

# No intersphinx: the build must pass without a network.
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

nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(scvi|ray)\..*")]  # documented where this build cannot look

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

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_title = "isoVI"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {
    "show_toc_level": 2,
    "navbar_persistent": [],  # the sidebar has the search
    "use_download_button": False,
}

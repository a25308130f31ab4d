"""Sphinx's settings; `make docs` builds with warnings as errors."""

import importlib.metadata

project = "oto_jax"
author = "oto_jax developers"
copyright = "2026, oto_jax developers"
version = release = importlib.metadata.version("oto_jax")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "oto_jax"

nitpicky = False
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # "Attributes:" as a list, beside the fields that autodoc finds itself

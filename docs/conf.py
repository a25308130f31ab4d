"""Sphinx's settings; `make docs` builds with warnings as errors.

Notebooks are shown as they lie in notebooks/, with their outputs, and not run.
"""

import importlib.metadata
import pathlib
import shutil

project = "oto_jax"
author = "oto_jax developers"
copyright = "2026, oto_jax developers"
version = release = importlib.metadata.version("oto_jax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",  # so that formulas show without a network
]
exclude_patterns = ["_build"]
nb_execution_mode = "off"
nb_merge_streams = True
html_theme = "furo"
html_title = "oto_jax"
html_favicon = "images/logo.svg"

nitpicky = False
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # "Attributes:" as a list, beside the fields that autodoc finds itself


HERE = pathlib.Path(__file__).parent
SHOWN = HERE / "notebooks"  # Sphinx reads what lies below its own folder; git ignores the copy


def copy_notebooks():
    """The notebooks and their table of contents, where they have changed."""
    SHOWN.mkdir(exist_ok=True)
    for file in [*HERE.parent.glob("notebooks/*.ipynb"), HERE.parent / "notebooks/README.md"]:
        copy = SHOWN / file.name
        if not copy.exists() or copy.read_bytes() != file.read_bytes():
            shutil.copyfile(file, copy)


def link_copies(app, name, source):
    """Pages link to notebooks/ beside docs/, which is right in the repository."""
    source[0] = source[0].replace("](../notebooks/", "](notebooks/")


def setup(app):
    """What Sphinx calls first."""
    copy_notebooks()
    app.connect("source-read", link_copies)

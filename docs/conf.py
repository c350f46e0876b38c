"""How Sphinx makes a site of the pages: ``tox -e docs``."""

project = "gradassay"
author = "the authors of gradassay"
copyright = "the authors of gradassay"  # noqa: A001 - Sphinx names it so
extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
highlight_language = "none"  # of a block that names none: what is printed is not Python
html_theme = "furo"
html_title = "gradassay"
nitpicky = True

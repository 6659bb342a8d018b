"""How Sphinx builds these pages: HTML, and the man pages gcorefs(1) and gcorefs(8)."""

from gcorefs import __version__

project = "gcorefs"
author = "the gcorefs developers"
version = release = __version__

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"gcorefs {release}"
html_show_copyright = False

man_pages = [
    ("commands", "gcorefs", "take and read cores of live processes", [author], 1),
    ("mount", "gcorefs", "a file system in which every process is its core", [author], 8),
]
man_show_urls = True

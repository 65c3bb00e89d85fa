"""How Sphinx builds the documentation site: `nox -s docs`."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "onepass"
version = release = importlib.metadata.version("onepass")
author = "the onepass contributors"
copyright = author

# _site.pages puts files of the repository and tables of results into pages; _site.reference checks and tidies the
# API reference; _site.mathml draws formulas without a script from another server.
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "_site.pages",
    "_site.reference",
    "_site.mathml",
]
exclude_patterns = ["_build", "_drawn", "_site", "requirements.txt"]

myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "inherited-members": True, "imported-members": True}
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
add_module_names = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"onepass {release}"
html_math_renderer = "mathml"
html_copy_source = False
# A summary would be fetched from the page found, which a browser refuses to pages read from a folder.
html_show_search_summary = False
html_show_sphinx = False
html_static_path = ["_site/static"]
html_css_files = ["onepass.css"]

"""Settings of Sphinx. `bash scripts/docs.sh` builds the pages; nothing is fetched for it."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "crystal-screening"
author = "the crystal-screening authors"
project_copyright = author
version = release = version_of(project)

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "generated",  # references from the schemas, figures, notebooks
    "mathml",
]
exclude_patterns = ["_build", "_extensions"]
nitpicky = True
nitpick_ignore_regex = [
    # Other projects' pages are not linked to: that would need the network.
    ("py:class", r"(pd|pathlib|collections|pymatgen)\..*|Mapping|Path|Structure|BaseCalculator"),
    # Written in docstrings as they are caught, without their modules.
    ("py:(exc|class)", "UserError|RunError|CheckpointError|Settings|ScoreModel"),
]

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tests/test_notebooks.py executes them
nb_merge_streams = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"{project} {release}"
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False

# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Configuration of the documentation."""

import os
from importlib.metadata import version as installed_version
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project = "levelmatch"
author = "The levelmatch developers"
copyright = "2026, The levelmatch developers"  # noqa: A001
release = version = installed_version("levelmatch")

extensions = [
    "myst_nb",
    "numpydoc",
    "pytest_doctestplus.sphinx.doctestplus",
    "sphinx_automodapi.automodapi",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.towncrier.ext",
]
# Links to other packages need their inventories, so a build without a network has none.
if os.environ.get("READTHEDOCS") == "True":
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "astropy": ("https://docs.astropy.org/en/stable", None),
        "ccdproc": ("https://ccdproc.readthedocs.io/en/stable", None),
        "reproject": ("https://reproject.readthedocs.io/en/stable", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
    }

exclude_patterns = [
    "_build",
    "Thumbs.db",
    "changes",
    "examples",
    # The notebooks of scripts, which are pages already.
    "gallery/*.ipynb",
    "user_guide/peers_table.rst",
]
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    # Names of other packages, which resolve where their inventories can be read.
    (
        r"py:.*",
        r"(asdf|astropy|ccdproc|collections|dask|gwcs|jwst|matplotlib|numpy|pathlib|reproject"
        r"|romancal|scipy|stdatamodels|tqdm)(\..*)?",
    ),
    (r"py:.*", r"(inputs|object|str|int|float|bool|list|dict|tuple|Exception|None|True|False)"),
    # The package's own, not public: what the parts of a result are made of.
    (
        r"py:.*",
        r"levelmatch\.(images|measure|record|results|sky|solve)\..*",
    ),
    (r"py:.*", r"levelmatch\.measure\.PairTable"),
    (r"py:.*", r"levelmatch\.plots\.sky\.Chart"),
    (r"py:.*", r"(Product|LevelMatchStep)"),
]

numpydoc_show_class_members = False
numpydoc_xref_param_type = False
numpydoc_validation_checks = {
    "all",
    # All but these: sections that not every object needs,
    "ES01",
    "EX01",
    "SA01",
    # summaries that begin on the line after the quotes,
    "GL01",
    # objects of other packages, seen through base classes,
    "GL08",
    # and parameters that share one description, which refers to another function.
    "PR03",
    "PR04",
    # The names of what is returned are given, for one value too.
    "RT02",
}
numpydoc_validation_exclude = {
    r"\.SimulatedSet$",
    r"\.__",
    r"\.(count|index|with_traceback|add_note|args|input|rows|slope_significance)$",
}
automodapi_toctreedirnm = "api"
automodapi_inheritance_diagram = False
automodsumm_inherited_members = False

# Notebooks have no outputs in the repository: each build runs them, in a folder of its own.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

# Scripts run in the folder that they are built in, on images that they simulate.
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1e9,
    "remove_config_comments": True,
    "write_computation_times": False,
    "run_stale_examples": False,
    "abort_on_example_error": True,
}

highlight_language = "none"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
towncrier_draft_autoversion_mode = "draft"
towncrier_draft_include_empty = True
towncrier_draft_working_directory = Path(__file__).parents[1]

html_theme = "pydata_sphinx_theme"
html_math_renderer = "mathml"
# Pages without pages below them need no list of these.
html_sidebars = {
    page: []
    for page in (
        "changes",
        "getting_started",
        "index",
        "install",
        "notebooks/first_steps",
        "reference/cli",
    )
}
html_title = "levelmatch"
html_static_path = ["_static"]
html_css_files = ["levelmatch.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_toc_level": 2,
    "navbar_align": "left",
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


def show_literally(app, context, lines):
    """Show examples in a command's help, which sphinx-click marks by bars, as literal blocks."""
    shown = []
    for line in lines:
        text = line.removeprefix("| ")
        if text != line and text.startswith(" "):
            shown.append(f"   {text}")
        elif text != line and text.endswith(":"):
            shown += ["", f"{text}:", ""]
        else:
            shown += ["", text] if shown and shown[-1].startswith("   ") else [text]
    lines[:] = shown


def visit_math(writer, node):
    """Write a formula as MathML, which browsers show without a script from the network."""
    block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=block)
    writer.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def setup(app):
    app.connect("sphinx-click-process-description", show_literally)
    app.connect("sphinx-click-process-epilog", show_literally)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))

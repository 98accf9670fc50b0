# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Configuration of the documentation."""

import os
import tomllib
from importlib.metadata import version as installed_version
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.utils.math.latex2mathml import tex2mathml

project = "levelmatch"
author = "The levelmatch developers"
copyright = "2026, The levelmatch developers"  # noqa: A001
release = version = installed_version("levelmatch")

_settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
KINDS = {kind["directory"]: kind["name"] for kind in _settings["tool"]["towncrier"]["type"]}

extensions = [
    "numpydoc",
    "sphinx_automodapi.automodapi",
    "sphinx_gallery.gen_gallery",
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

exclude_patterns = ["_build", "Thumbs.db", "changes", "examples", "user_guide/peers_table.rst"]
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    # Names of other packages, which resolve where their inventories can be read.
    (
        r"py:.*",
        r"(asdf|astropy|ccdproc|collections|dask|gwcs|matplotlib|numpy|pathlib|reproject|scipy"
        r"|tqdm)(\..*)?",
    ),
    (r"py:.*", r"(object|str|int|float|bool|list|dict|tuple|Exception|None|True|False)"),
    # The package's own, not public: what the parts of a result are made of.
    (
        r"py:.*",
        r"levelmatch\.(corrections|files|frames|jwst|levels|passes|pipeline|provenance|results|sky|solve|store)\..*",
    ),
    (r"py:.*", r"levelmatch\.measure\.PairTable"),
    (r"py:.*", r"levelmatch\.plots\.sky\.Chart"),
    (r"py:.*", r"Product"),
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
    r"\.(count|index|with_traceback|add_note|args)$",
}
automodapi_toctreedirnm = "api"
automodapi_inheritance_diagram = False
automodsumm_inherited_members = False

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

html_theme = "pydata_sphinx_theme"
html_math_renderer = "mathml"
# Pages without pages below them need no list of these.
html_sidebars = {
    page: []
    for page in (
        "changes",
        "contributing",
        "getting_started",
        "how_it_works",
        "index",
        "install",
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
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


class CommandHelp(Directive):
    """The ``--help`` of a command, so that the page says what the program says."""

    optional_arguments = 1

    def run(self):
        from click.testing import CliRunner

        from levelmatch.cli import main

        command = [*self.arguments, "--help"]
        result = CliRunner().invoke(main, command, prog_name="levelmatch", terminal_width=74)
        if result.exit_code != 0:
            msg = f"levelmatch {' '.join(command)}: {result.output}"
            raise self.error(msg)
        text = f"$ levelmatch {' '.join(command)}\n{result.output}"
        return [nodes.literal_block(text, text, language="none")]


class ChangeNotes(Directive):
    """The notes in ``docs/changes``, which the next release's changes are made of."""

    def run(self):
        from docutils.statemachine import StringList

        folder = Path(__file__).parent / "changes"
        source = []
        for kind, title in KINDS.items():
            found = sorted(folder.glob(f"*.{kind}.rst"))
            source += [f".. rubric:: {title}", ""] if found else []
            for path in found:
                text = path.read_text(encoding="utf-8").split("\n")
                source += ["- " + "\n  ".join(text).strip(), ""]
        lines = "\n".join(source).split("\n")
        node = nodes.Element()
        self.state.nested_parse(StringList(lines, "changes"), 0, node)
        return node.children


def visit_math(writer, node):
    """Write a formula as MathML, which browsers show without a script from the network."""
    block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=block)
    writer.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.add_directive("command-help", CommandHelp)
    app.add_directive("change-notes", ChangeNotes)

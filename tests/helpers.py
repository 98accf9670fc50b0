# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Helpers of several test modules."""

from click.testing import CliRunner

from levelmatch.cli import main

# Options of simulations without sources, and without anything but levels and noise.
DARK = {"stars": False, "nebula": False, "galaxy": False}
CLEAN = {**DARK, "cosmic_rays": False, "bad_pixels": False}


def run(*arguments):
    """Run ``levelmatch`` in this process, and return its result."""
    return CliRunner().invoke(main, list(map(str, arguments)), prog_name="levelmatch")

# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The command line as ``python -m levelmatch``."""

from levelmatch.cli import main

main(prog_name="levelmatch")

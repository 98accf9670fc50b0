# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The command line. It imports only click and the standard library until a command runs."""

import click

from levelmatch.cli.demo_command import demo
from levelmatch.cli.errors import Group
from levelmatch.cli.record_commands import apply, mosaic, report, show, solve, undo, verify
from levelmatch.cli.run_command import run

__all__ = ["main"]

EPILOG = """\
\b
Examples:
  levelmatch demo try
  levelmatch run raw/*_cal.fits -o matched --report
  levelmatch run raw/*_cal.fits -o matched --recombine-lyot \\
      --fit-type-mosaic-tiles level+slope --reference mean
  levelmatch run --config levelmatch.toml --dry-run
  levelmatch run new/*_cal.fits -o larger --extend matched/levelmatch.asdf
  levelmatch show matched/levelmatch.asdf
  levelmatch mosaic matched/levelmatch.asdf -o mosaic.fits

\b
Completion of commands and options, in ~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish:
  eval "$(_LEVELMATCH_COMPLETE=bash_source levelmatch)"
  eval "$(_LEVELMATCH_COMPLETE=zsh_source levelmatch)"
  _LEVELMATCH_COMPLETE=fish_source levelmatch | source

Exit status: 0 for success, 2 for wrong use or bad input, 3 if the images are written but the
report is not, 130 after Ctrl-C, 1 for anything else.
"""


@click.group(cls=Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="levelmatch", prog_name="levelmatch")
def main():
    """Match the background levels of overlapping astronomical images."""


for _command in (run, demo, show, report, mosaic, apply, undo, verify, solve):
    main.add_command(_command)

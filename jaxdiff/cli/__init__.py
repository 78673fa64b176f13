"""The command line: one file per command, and one table of commands."""

from jaxdiff import interrupts
from jaxdiff.cli.commands import COMMANDS as COMMANDS
from jaxdiff.cli.program import jaxdiff as jaxdiff
from jaxdiff.cli.program import main as main

interrupts.imported()

"""The command line: one file a command, and one table of them."""

from jaxdiff.cli.program import COMMANDS as COMMANDS
from jaxdiff.cli.program import main as main

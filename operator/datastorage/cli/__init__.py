"""The command line.

What belongs here: options, tables and exit codes. What does not: what another program would need as well.
"""

from datastorage.cli.app import main

__all__ = ["main"]

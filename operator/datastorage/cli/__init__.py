"""The command line.

This package holds options, tables and exit codes. Code that another program would need as well is in the
packages below it.
"""

from datastorage.cli.app import main

__all__ = ["main"]

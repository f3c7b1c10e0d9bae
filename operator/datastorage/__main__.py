"""``python -m datastorage``: the command line."""

from datastorage.cli import main

main()

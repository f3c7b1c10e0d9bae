"""The entry point of ``python -m datastorage`` and of the program ``datastorage``."""

import sys
from collections.abc import Callable
from typing import NoReturn

from datastorage.runtime.processend import end_on_sigterm, leave


def run() -> NoReturn:
    """Run the command line and end the process."""
    end_on_sigterm()
    from datastorage.cli import main  # noqa: PLC0415  # SIGTERM may come while this loads

    _run(main)


def complete() -> NoReturn:
    """Answer kubectl, which asks for the words that may follow; end the process."""
    end_on_sigterm()
    from datastorage.cli import main  # noqa: PLC0415  # as above
    from datastorage.cli.completion import complete_for_kubectl  # noqa: PLC0415  # as above

    _run(lambda: complete_for_kubectl(main, sys.argv[1:]))


def _run(main: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001  # printed as the interpreter would
        sys.excepthook(*sys.exc_info())
    leave(code)


if __name__ == "__main__":
    run()

"""The entry point of ``python -m datastorage`` and of the program ``datastorage``."""

import sys
from collections.abc import Callable
from typing import NoReturn

from datastorage.runtime.garbage import collect_seldom
from datastorage.runtime.processend import EXIT_TERMINATED, end_on_sigterm, end_requested, leave


def run() -> NoReturn:
    """Run the command line and end the process."""
    _run(_command)


def _command() -> None:
    from datastorage.cli import main  # noqa: PLC0415  # SIGTERM may come while this loads

    main()


def complete() -> NoReturn:
    """Answer kubectl, which asks for the words that may follow; end the process."""
    _run(_completion)


def _completion() -> None:
    from datastorage.cli import main  # noqa: PLC0415  # as above
    from datastorage.cli.completion import complete_for_kubectl  # noqa: PLC0415  # as above

    complete_for_kubectl(main, sys.argv[1:])


def _run(main: Callable[[], None]) -> NoReturn:
    end_on_sigterm()
    collect_seldom()
    code = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001  # printed as the interpreter would
        if end_requested():  # a library that was being loaded has made another error of the exit
            code = EXIT_TERMINATED
        else:
            sys.excepthook(*sys.exc_info())
    leave(code)


if __name__ == "__main__":
    run()

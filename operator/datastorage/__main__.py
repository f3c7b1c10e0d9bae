"""The process: ``python -m datastorage`` and the program ``datastorage``."""

import signal
import sys
from typing import Final, NoReturn

from datastorage.processend import leave

# As the shell would say of a process that SIGTERM has ended.
_EXIT_TERMINATED: Final = 128 + signal.SIGTERM


def run() -> NoReturn:
    """Run the command line and end the process."""
    # The first process of a container has no default action: a SIGTERM that comes before the operator takes
    # it for itself would be lost. It unwinds, so that an embedded PostgreSQL is stopped.
    signal.signal(signal.SIGTERM, _end)
    from datastorage.cli import main  # noqa: PLC0415  # takes a while

    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001  # shown as the interpreter would
        sys.excepthook(*sys.exc_info())
    leave(code)


def _end(*_: object) -> NoReturn:
    sys.exit(_EXIT_TERMINATED)


if __name__ == "__main__":
    run()

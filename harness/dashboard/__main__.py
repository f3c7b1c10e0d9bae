"""Makes the files of the dashboard: `python -m harness.dashboard`, or `make dashboard`."""

import argparse
import sys

from harness.dashboard.files import stale, write


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m harness.dashboard",
        description="Writes the dashboard for Grafana into manifests/monitoring, and the page about it.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a file is not as generated"
    )
    if not parser.parse_args().check:
        for path in write():
            print(f"wrote {path}")
        return 0
    if changed := stale():
        print(f"not as generated: {', '.join(map(str, changed))}; run 'make dashboard'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

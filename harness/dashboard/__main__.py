"""Makes the files of the dashboard: `python -m harness.dashboard`, or `make dashboard`."""

import argparse
import sys

from harness import generated
from harness.dashboard.files import files


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m harness.dashboard",
        description="Writes the dashboard for Grafana into manifests/monitoring, and the page about it.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a file is not as generated"
    )
    return generated.make(files(), "make dashboard", check=parser.parse_args().check)


if __name__ == "__main__":
    sys.exit(main())

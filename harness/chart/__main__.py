"""Make the Helm chart: `python -m harness.chart`, or `make chart`."""

import argparse
import hashlib
import sys
from pathlib import Path

from harness import REPOSITORY, generated
from harness.chart.build import ARCHIVE, PAGE, chart_files, packed, page, write_folder

DESCRIPTION = """\
Makes the Helm chart from crds/ and manifests/. Needs neither Helm nor a network. Equal sources
make an equal archive, byte for byte."""
EPILOG = """\
examples:
  python -m harness.chart                    write the archive into dist/
  python -m harness.chart --folder build/x   write the files of the chart, to read or change them
  python -m harness.chart --page             bring the table of values in docs/ up to date
  python -m harness.chart --check            fail if that table is out of date

then:
  helm install datastorage dist/ARCHIVE --namespace datastorage-system --create-namespace"""


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.check or arguments.page:
        wanted = {PAGE.relative_to(REPOSITORY): page()}
        return generated.make(wanted, "make docs", check=arguments.check)
    if arguments.folder is not None:
        write_folder(arguments.folder)
        print(arguments.folder)
        return 0
    content = packed(chart_files())
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / ARCHIVE
    path.write_bytes(content)
    print(f"{path}  sha256:{hashlib.sha256(content).hexdigest()}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.chart",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--output", type=Path, default=Path("dist"), help="where the archive goes (default: %(default)s)"
    )
    what.add_argument("--folder", type=Path, help="write the files of the chart into this folder instead")
    what.add_argument("--page", action="store_true", help="write the table of values into its page")
    what.add_argument("--check", action="store_true", help="check that table")
    return parser


if __name__ == "__main__":
    sys.exit(main())

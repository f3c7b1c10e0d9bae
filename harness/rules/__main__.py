"""Makes the files of the rules: `python -m harness.rules`, or `make rules`."""

import argparse
import subprocess
import sys

from harness import REPOSITORY, generated
from harness.controlplane.errors import BuildError
from harness.prometheus.programs import ensure_prometheus
from harness.rules.files import PLAIN_RULES, files


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m harness.rules",
        description="Writes the rules of Prometheus into manifests/monitoring, and what pages say of them.",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; fail if a file is not as generated, or promtool finds a fault",
    )
    check = parser.parse_args().check
    code = generated.make(files(), "make rules", check=check)
    return _check_with_promtool() if check and not code else code


def _check_with_promtool() -> int:
    try:
        promtool = ensure_prometheus().promtool
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return subprocess.run(
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", PLAIN_RULES], cwd=REPOSITORY, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())

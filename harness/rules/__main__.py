"""Makes the files of the rules: `python -m harness.rules`, or `make rules`."""

import argparse
import subprocess
import sys

from harness import REPOSITORY
from harness.controlplane.errors import BuildError
from harness.prometheus.programs import ensure_prometheus
from harness.rules.files import PLAIN_RULES, stale, write


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m harness.rules",
        description="Writes the rules of Prometheus into manifests/monitoring, and what pages say of them.",
    )
    parser.add_argument("--check", action="store_true", help="check the files, and the rules with promtool")
    if not parser.parse_args().check:
        for path in write():
            print(f"wrote {path}")
        return 0
    if changed := stale():
        print(f"not as generated: {', '.join(map(str, changed))}; run 'make rules'", file=sys.stderr)
        return 1
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

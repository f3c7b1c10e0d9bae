"""The programs that show the product: what they refuse before they start anything."""

import os
import subprocess
import sys
from pathlib import Path


def test_a_database_of_an_earlier_run_is_refused_at_once(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    variables = {
        "DATASTORAGE_DATABASE_URL": f"postgresql://datastorage:@/postgres?host={gone}&port=5432",
        "DATASTORAGE_EMBEDDING_PROVIDER": "none",
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith("DATASTORAGE_")}
    ended = subprocess.run(
        [sys.executable, "-m", "examples.demo.dev"],
        env=others | variables,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = " ".join((ended.stdout + ended.stderr).split())
    assert ended.returncode == 1
    assert f"{gone} does not exist" in said
    assert "unset DATASTORAGE_DATABASE_URL DATASTORAGE_EMBEDDING_PROVIDER" in said

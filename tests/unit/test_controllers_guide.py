"""Where the Python code of the guide for controllers sends its token. The end-to-end tests run all of it."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from tests.support.answering import answering

_GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "controllers.md"
_CODE = re.findall(r"^```python\n(.*?)^```$", _GUIDE.read_text(), re.DOTALL | re.MULTILINE)[0]
_SECONDS = 60.0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_token_does_not_follow_a_redirect(tmp_path: Path, status: int) -> None:
    (tmp_path / "token").write_text("secret-token")
    async with answering() as archive, answering() as other:
        archive.say(status, b"", Location=f"{other.url}/login")
        other.say(200, {"uid": "x", "contentHash": "x"})
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CODE,
            env={**os.environ, "ARCHIVE_URL": archive.url, "TOKEN_FILE": str(tmp_path / "token")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(_SECONDS):
            _, error = await program.communicate()
    assert archive.requests[0].headers["Authorization"] == "Bearer secret-token"
    assert other.requests == []
    assert f"RuntimeError: {status}" in error.decode()

"""Tables of the command line: on a narrow terminal lines are folded, and nothing is lost."""

import pytest
from rich.console import Console

from datastorage.cli import output

WORDS = "patch-deployment: Raised the memory limit of checkout from 256Mi to 512Mi after repeated OOM kills"
ROW = (
    "2026-11-25T00:38:51Z", "AuditRecord", "payments/checkout-oom-4-execution", "Completed",
    "Deployment/payments/checkout", WORDS,
)  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 100, 130, 200])
def test_no_word_is_lost_on_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(output, "Console", lambda **_: Console(width=width))
    output.print_table(["CREATED", "KIND", "RECORD", "OUTCOME", "TARGET", "WHAT"], [ROW])
    shown = capsys.readouterr().out
    letters = sorted("".join("".join(ROW).split()))
    printed = sorted("".join("".join(shown.splitlines()[1:]).split()))
    # The heading may be folded too, and then adds its own letters.
    for letter in set(letters):
        assert printed.count(letter) >= letters.count(letter), (width, letter)

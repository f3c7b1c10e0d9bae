"""A credential plugin whose output the test sets, and which records its calls."""

import json
import sys
from pathlib import Path
from typing import Any

VERSION = "client.authentication.k8s.io/v1"
_PROGRAM = """#!{python}
import json, os, pathlib, sys, time
here = pathlib.Path(__file__).parent
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
with (here / "calls").open("a") as calls:
    own = {{name: value for name, value in os.environ.items() if name.startswith("PLUGIN_")}}
    closed = not os.isatty(0) and sys.stdin.read() == ""
    call = {{"info": info, "arguments": sys.argv[1:], "environment": own, "closed": closed}}
    calls.write(json.dumps(call) + "\\n")
exec((here / "does.py").read_text())
"""


class FakePlugin:
    """A program in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.command = folder / "plugin"
        self.command.write_text(_PROGRAM.format(python=sys.executable))
        self.command.chmod(0o755)
        self.gives(token="first")

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The input of each call."""
        path = self._folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def user(self, **other: Any) -> dict[str, Any]:
        """Return the kubeconfig entry of a user with this plugin."""
        return {
            "exec": {
                "apiVersion": VERSION,
                "command": str(self.command),
                "interactiveMode": "Never",
                **other,
            }
        }

    def gives(self, *, version: str = VERSION, **status: Any) -> None:
        """Make it print these credentials from now on."""
        self.prints(json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status}))

    def prints(self, text: str) -> None:
        """Make it print this text from now on."""
        self.does(f"print({text!r})")

    def does(self, program: str) -> None:
        """Make it run this program from now on."""
        fresh = self._folder / "does.new"
        fresh.write_text(program)
        fresh.rename(self._folder / "does.py")

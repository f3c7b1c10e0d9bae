"""The errors of a cluster under test."""

from collections.abc import Sequence


class ControlPlaneError(Exception):
    """The control plane cannot be built, started or reached."""


class BuildError(ControlPlaneError):
    """A binary of the control plane could not be found or built."""


class ComponentError(ControlPlaneError):
    """A component ended by itself or did not become ready in time; carries the end of its log."""


class KubectlError(ControlPlaneError):
    """kubectl exited with an error; the message is kubectl's own."""

    def __init__(self, arguments: Sequence[str], returncode: int, stderr: str) -> None:
        super().__init__(f"kubectl {' '.join(arguments)} (exit {returncode}): {stderr.strip()}")
        self.returncode = returncode
        self.stderr = stderr

"""The error of everything that needs Docker."""

from harness.controlplane.errors import ControlPlaneError


class DockerError(ControlPlaneError):
    """Docker is missing, does not answer, or refused a command; the message is its own, or has the remedy."""

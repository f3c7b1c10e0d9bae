"""The errors that make a run fail. A missed target does not."""


class BenchmarkError(Exception):
    """The run can't go on."""


class LossError(BenchmarkError):
    """A record is missing where it must be, or is where it must not be."""

"""The marker of tests that need IPv6."""

from typing import Final

import pytest

from harness.ports import has_ipv6

needs_ipv6: Final = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")

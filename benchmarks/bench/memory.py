"""Memory of this process as the kernel counts it: now, and at most since the count was reset. Linux only."""

from __future__ import annotations

import re
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def reset_peak() -> int | None:
    """Start counting anew; returns the bytes held now, or None where the system cannot tell."""
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return None
    return resident()


def peak() -> int:
    """Bytes held at most since `reset_peak`."""
    return _field("VmHWM")


def resident() -> int:
    """Bytes held now."""
    return _field("VmRSS")


def _field(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024

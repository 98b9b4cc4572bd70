"""How a long part of the proof tells the caller what it is doing."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of the current step, how many units of it are done, and how many there are (0: unknown)."""

"""Verdict counters: their names, and how they are reported (``ports.list``, the page, ``forwarder status``)."""

from __future__ import annotations

from backend.protocol.port import Counter

VERDICTS = (
    "passed",
    "runt",
    "oversized",
    "tags",
    "spoofed",
    "destination",
    "ethertype",
    "link_address",
    "rate",
    "group_rate",
    "offload",
    "no_buffer",
    "down",
    "failed",
)
"""In the order of ``enum verdict`` of ``core/policy.h``, where each is explained."""
DIRECTIONS = ("rx", "tx")
"""The device's: ``rx`` came in at the port, ``tx`` came from the VM; in the order of ``enum direction``."""

Counts = tuple[tuple[tuple[int, int], ...], ...]
"""Direction, verdict, (frames, bytes)."""


def named(counts: Counts) -> list[Counter]:
    """The counters with their names: ``rx_passed``, ``tx_spoofed`` ..."""
    return [
        Counter(name=f"{direction}_{verdict}", frames=frames, bytes=length)
        for direction, verdicts in zip(DIRECTIONS, counts, strict=True)
        for verdict, (frames, length) in zip(VERDICTS, verdicts, strict=True)
    ]

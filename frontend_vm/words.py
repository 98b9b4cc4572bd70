"""Labels and explanations for the forwarder's names, from ``static/words.json``, which the page reads, too.

A name that the file does not have is shown as it is: the backend may be newer.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

FILE = Path(__file__).parent / "static/words.json"


class Words(Struct, frozen=True, forbid_unknown_fields=True):
    """By name: a label and a sentence; for faults only the reason."""

    verdicts: dict[str, tuple[str, str]]
    """Names without their direction: ``passed`` for ``rx_passed`` and ``tx_passed``."""
    faults: dict[str, str]
    ways: dict[str, tuple[str, str]]
    vms: dict[str, tuple[str, str]]


WORDS = msgspec.json.decode(FILE.read_bytes(), type=Words)

"""Words for the forwarder's names, for people: one file (``static/words.json``) that the page reads, too.

A name without words is no error: the backend may be a version ahead. It is then shown as it came.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

FILE = Path(__file__).parent / "static/words.json"


class Words(Struct, frozen=True, forbid_unknown_fields=True):
    """By name: a label and a sentence, or for faults the reason alone."""

    verdicts: dict[str, tuple[str, str]]
    """Without the direction: ``passed`` for ``rx_passed`` and ``tx_passed``."""
    faults: dict[str, str]
    ways: dict[str, tuple[str, str]]
    vms: dict[str, tuple[str, str]]


WORDS = msgspec.json.decode(FILE.read_bytes(), type=Words)

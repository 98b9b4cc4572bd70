"""Named steps of a machine's life in the log of Python, each with its duration: a failing test reads like a story.

A record of logger ``driver`` has the attributes ``step`` (``boot``, ``resume``, ``save``) and ``seconds``; the tests
add them up (`tests/timing.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOG = logging.getLogger("driver")


@contextmanager
def step(kind: str, what: str) -> Iterator[None]:
    """Log how long the body took, and whether it failed.

    Args:
        kind: under which name such steps are summed up: ``boot``, ``resume`` or ``save``.
        what: the machine or image, for whoever reads the log.
    """
    began, outcome = time.monotonic(), "failed"
    try:
        yield
        outcome = "done"
    finally:
        seconds = time.monotonic() - began
        LOG.info("%s of %s: %s after %.1f s", kind, what, outcome, seconds, extra={"step": kind, "seconds": seconds})

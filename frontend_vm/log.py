"""The event log: one line on standard error per event, limited in rate and length, without control characters."""

from __future__ import annotations

import logging
import time

from frontend_vm.protocol.rate_limit import Bucket, Clock

BURST, RATE = 40.0, 4.0
"""Lines at once, and per second in the long run, so that no client can fill the console or the host's journal."""
WIDTH = 240
"""Characters of one line."""


def printable(text: str, width: int = WIDTH) -> str:
    """`text` cut to `width`; characters that are not printable (control, bidirectional, surrogate) become ``?``."""
    return "".join(char if char.isprintable() else "?" for char in text[:width])


class OneLine(logging.Formatter):
    """Level, logger and message in one printable line; of an exception its type and where it was raised."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        message = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
            # The first line only: libraries put whole requests, which may hold secrets, into the others.
            message = f"{message.splitlines()[0] if message else ''} ({type(error).__name__} at {where})"
        return printable(f"{record.levelname.lower()} {record.name}: {message}")


class RateLimit(logging.Filter):
    """Lets `BURST` records pass at once and `RATE` per second; the next one says how many were dropped before it."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        super().__init__()
        self._bucket = Bucket(RATE, BURST, clock)
        self._dropped = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide about one record."""
        if self._bucket.take() > 0.0:
            self._dropped += 1
            return False
        if self._dropped:
            record.msg, record.args = f"{record.getMessage()} [{self._dropped} lines before this were dropped]", None
            self._dropped = 0
        return True


def start_log() -> None:
    """Log this process's events to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    handler.addFilter(RateLimit())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Below these levels, these log a line for every connection of a port scan.
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    logging.getLogger("tornado").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)

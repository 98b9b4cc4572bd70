"""Whether the build itself is being debugged: by SALLYPORT_DEBUG, or by `invoke --debug TASK`.

If it is, a task that fails shows its whole traceback, a failed step of the build keeps its directory and names it, and
the command line of a failed child process is printed in a form that can be pasted.
"""

from __future__ import annotations

import logging
import os

DEBUG = "SALLYPORT_DEBUG"
"""Environment variable: 1 shows tracebacks, keeps directories of failed steps and prints the failed command line."""


def debugging() -> bool:
    """Whether it was asked for; `invoke --debug` sets the level of the root logger."""
    return os.environ.get(DEBUG, "") not in ("", "0") or logging.getLogger().level == logging.DEBUG

"""Makes this process independent of how it was started: its file mode mask and its locale.

The environment of child processes is that of `rootfs.base.process.environment`.
"""

from __future__ import annotations

import locale
import os
import sys

UMASK = 0o022
"""File mode creation mask of this process and its children: with another one, files in an image have other modes."""


def settle() -> None:
    """Set the file mode mask, and read text as UTF-8.

    Python decides on UTF-8 when it starts (PEP 540), so with another locale this process is replaced by the same
    command in UTF-8 mode.
    """
    os.umask(UMASK)
    if not sys.flags.utf8_mode and locale.getencoding().lower() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell is wanted

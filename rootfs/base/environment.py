"""How this process was started, of which nothing may get into an image: its umask, its locale.

What children see, `rootfs.base.process.environment` says.
"""

from __future__ import annotations

import locale
import os
import sys

UMASK = 0o022
"""Of everything that is made: with another one files in an image have other modes, or such that no service can run."""


def settle() -> None:
    """Have files made with the modes that they say, and text read as UTF-8.

    The latter is decided when Python starts (PEP 540): with another locale it is started again, by the same command.
    """
    os.umask(UMASK)
    if not sys.flags.utf8_mode and locale.getencoding().lower() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell is wanted

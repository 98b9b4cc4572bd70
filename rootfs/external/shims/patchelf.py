#!/usr/bin/python3
"""In the place of Buildroot's own patchelf, whose option ``--make-rpath-relative`` no release of patchelf has.

Buildroot calls it once for each program of the target, and of the build (support/scripts/fix-rpath). Everything else is
for patchelf(1).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PATCHELF = "/usr/bin/patchelf"
_STANDARD = ("/lib", "/usr/lib")
"""Where the loader looks anyhow."""


def on_target(entry: str, root: Path) -> str | None:
    """An entry of a run path as the target has it; None if it means nothing there.

    Args:
        entry: a directory of the build, of the target, or ``$ORIGIN/...``.
        root: the target's tree.
    """
    if entry.startswith("$ORIGIN"):
        return entry
    if entry.startswith(f"{root}/"):
        entry = entry.removeprefix(str(root))
    return None if entry in _STANDARD or not (root / entry.lstrip("/")).is_dir() else entry


def clean(root: Path, file: str) -> None:
    """Leave of the run path of ``file`` what holds on the target."""
    before = subprocess.run([PATCHELF, "--print-rpath", file], check=True, capture_output=True, text=True).stdout
    entries = [entry for entry in before.strip().split(":") if entry]
    after = list(dict.fromkeys(kept for entry in entries if (kept := on_target(entry, root)) is not None))
    if after != entries:
        change = ["--set-rpath", ":".join(after)] if after else ["--remove-rpath"]
        subprocess.run([PATCHELF, *change, file], check=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["--make-rpath-relative"]:
        # Relative to the file: programs of the build, which nobody moves.
        if "--relative-to-file" not in words:
            clean(Path(words[1]), words[-1])
    else:
        sys.exit(subprocess.run([PATCHELF, *words], check=False).returncode)

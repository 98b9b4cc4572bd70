"""The unified kernel image: its command line against the declared words."""

from __future__ import annotations

import io
import re
import struct
import time
from pathlib import Path

from proof.image.tree.entries import TreeError
from proof.image.tree.outcome import Outcome, result
from proof.image.tree.settings import COMMAND_LINE
from proof.result import Result
from rootfs.base.tools_tree import left

MAX_UKI = 1 << 28


def command_line_of(kernel: Path) -> str:
    """Return the command line in a unified kernel image: its section ``.cmdline`` (UAPI.5, unified kernel images).

    Raises:
        TreeError: the file is no unified kernel image.
    """
    try:
        with io.BytesIO(left(kernel, MAX_UKI)) as file:
            head = file.read(1 << 16)
            # PE format: offset of the header at 0x3c, then COFF file header, optional header, section table.
            (at,) = struct.unpack_from("<I", head, 0x3C)
            if head[:2] != b"MZ" or head[at : at + 4] != b"PE\0\0":
                raise TreeError(f"{kernel} is no PE image")
            count, optional = struct.unpack_from("<H12xH", head, at + 6)
            for number in range(min(count, 96)):
                name, size, raw, offset = struct.unpack_from("<8sI4xII", head, at + 24 + optional + 40 * number)
                if name == b".cmdline":
                    file.seek(offset)
                    return file.read(min(size, raw, 4096)).rstrip(b"\0").decode("ascii")
    except (OSError, struct.error, ValueError) as error:
        raise TreeError(f"{kernel}: {error}") from error
    raise TreeError(f"{kernel} has no section .cmdline")


def _words(line: str, root_hash: str) -> list[str]:
    """Return what is wrong with a command line, one text for each fault."""
    words = line.split()
    wrong = [f"not declared: {word!r}" for word in words if not any(re.fullmatch(p, word) for p in COMMAND_LINE)]
    for pattern in COMMAND_LINE:
        count = sum(1 for word in words if re.fullmatch(pattern, word))
        if count != 1:
            wrong.append(f"{count} words like {pattern}")
    if root_hash and f"sallyport.roothash={root_hash}" not in words:
        wrong.append("the root hash is not the manifest's")
    return wrong


def command_line(line: str, root_hash: str = "") -> Result:
    """Return the result for the host kernel's command line; ``root_hash`` is the manifest's, in hex."""
    began, outcome = time.monotonic(), Outcome()
    planted = {
        "shell": line + " systemd.debug-shell=1",
        "init": line + " init=/bin/sh",
        "early shell": line + " rd.break",
        "console": line + " console=ttyS1",
        "IPv6": line.replace("ipv6.disable=1", "ipv6.disable=0"),
        "no verified root": re.sub(r"sallyport\.roothash=\S*", "root=/dev/vda2", line),
        "two roots": line + " sallyport.roothash=" + "0" * 64,
        "mitigations": line.replace("mitigations=auto", "mitigations=off"),
        "hyper-threads": line.replace("nosmt=force", ""),
    }
    offences = _words(line, root_hash)
    for name, other in planted.items():
        outcome.planted += 1
        if other != line and set(_words(other, root_hash)) - set(offences):
            outcome.seen.append(name)
        else:
            outcome.trouble.append(f"control {name!r} was not found")
    outcome.offences = offences
    tried = "every word of the command line in the unified kernel image against the declared ones"
    return result("command-line", tried, outcome, f"{len(line.split())} words; ", began)

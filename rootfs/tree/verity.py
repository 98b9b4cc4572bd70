"""Seals a root file system with dm-verity (kernel: Documentation/admin-guide/device-mapper/verity.rst)."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from rootfs.base.errors import SallyportError
from rootfs.base.tools_tree import Tools
from rootfs.spec.blocks import BLOCK

SEALED = "root.verity"
"""File name of a root file system that is followed by its hash tree."""
_RECORD = "verity.json"


@dataclass(frozen=True)
class Verity:
    """A dm-verity device; the hash tree follows the data."""

    blocks: int
    """Data blocks of 4096 bytes; also where the hash tree begins."""
    root_hash: str
    salt: str

    @property
    def argument(self) -> str:
        """As the initrd reads it from the kernel's command line."""
        return f"sallyport.roothash={self.root_hash} sallyport.verity={self.blocks},{self.salt}"


def seal(tools: Tools, build: Path, root: Path) -> Verity:
    """Append the hash tree to a copy of ``root``: ``build/root.verity``.

    Raises:
        CommandError: veritysetup failed.
        SallyportError: veritysetup printed no root hash.
    """
    sealed = build / SEALED
    shutil.copyfile(root, sealed)
    size = sealed.stat().st_size
    padded = -(-size // BLOCK) * BLOCK
    with sealed.open("r+b") as file:
        file.truncate(padded)
    # The salt need not be secret, only differ from image to image; derived, so that a rebuild gives the same bytes.
    salt = hashlib.sha256(b"sallyport verity salt" + hashlib.sha256(root.read_bytes()).digest()).hexdigest()
    printed = tools.run(
        [
            *("veritysetup", "format", sealed.name, sealed.name, "--no-superblock", "--hash", "sha256"),
            *("--hash-offset", str(padded), "--data-blocks", str(padded // BLOCK), "--salt", salt),
        ],
        build=build,
    )
    match = re.search(r"^Root hash:\s+([0-9a-f]{64})$", printed, re.MULTILINE)
    if match is None:
        raise SallyportError("veritysetup printed no root hash", f"it printed: {printed}")
    return Verity(padded // BLOCK, match.group(1), salt)


def save(verity: Verity, directory: Path) -> None:
    """Record the parameters of the device beside the sealed file system."""
    (directory / _RECORD).write_text(json.dumps(asdict(verity)))


def load(directory: Path) -> Verity:
    """What `save` wrote."""
    return Verity(**json.loads((directory / _RECORD).read_text()))

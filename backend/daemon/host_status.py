"""Facts about the host for ``status.get``."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from backend.common import store, vm_state
from backend.daemon import storage
from backend.daemon.public_identity import PresentedIdentity
from backend.daemon.settings import Settings
from backend.protocol.system import AuditLog, Status

log = logging.getLogger("status")

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
UPTIME = Path("/proc/uptime")
MEMINFO = Path("/proc/meminfo")
LIMIT = 16384
"""Bytes of any file read here."""

# dm-verity with SHA-256: 64 hexadecimal digits; other hashes are longer or shorter, never wilder.
_ROOT_HASH = re.compile(r"(?:^|\s)sallyport\.roothash=([0-9a-f]{32,128})(?=\s|\Z)")
_Text = Annotated[str, Meta(max_length=64)]


class ImageIdentity(Struct, frozen=True):
    """Fields of ``image.json``, which the build wrote into the image; others are ignored."""

    product: _Text = ""
    version: _Text = ""
    profile: _Text = ""
    engine: _Text = ""


def boot_id() -> str:
    """The kernel's identifier of this boot (random(4))."""
    return store.read(BOOT_ID, LIMIT).decode("ascii").strip()


def root_hash(cmdline: str) -> str:
    """The dm-verity root hash on the kernel's command line; empty if there is none."""
    match = _ROOT_HASH.search(cmdline)
    return match[1] if match else ""


def memory(meminfo: str) -> tuple[int, int]:
    """Total and available memory in bytes, from /proc/meminfo (proc(5); its unit is KiB).

    Raises:
        KeyError, ValueError: the text is not in that format.
    """
    fields = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    return int(fields["MemTotal"].split()[0]) * 1024, int(fields["MemAvailable"].split()[0]) * 1024


class HostStatus:
    """Collects the answer to ``status.get``. What cannot change while the host runs is read once."""

    def __init__(
        self, settings: Settings, presented: PresentedIdentity, hostname: Callable[[], str] = socket.gethostname
    ) -> None:
        self._settings = settings
        self._presented = presented
        self._hostname = hostname
        self.boot_id = boot_id()
        self._image = _identity(settings.image)
        self.storage = storage.at_start(settings.storage)
        try:
            self._root_hash = root_hash(store.read(settings.cmdline, LIMIT).decode("ascii", "replace"))
        except OSError:
            self._root_hash = ""

    def get(self, audit: AuditLog) -> Status:
        """The present state, with the state of the audit log in ``audit``.

        Raises:
            OSError, ValueError, KeyError: a file of the kernel cannot be read or parsed.
        """
        public = self._presented.get()
        total, available = memory(store.read(MEMINFO, LIMIT).decode("ascii"))
        data = os.statvfs(self._settings.data)
        return Status(
            hostname=self._hostname(),
            product=self._image.product,
            version=self._image.version,
            profile=self._image.profile,
            engine=self._image.engine,
            image=self._root_hash,
            boot_id=self.boot_id,
            uptime_s=float(store.read(UPTIME, LIMIT).split()[0]),
            load_1m=os.getloadavg()[0],
            memory_total=total,
            memory_available=available,
            data_total=data.f_blocks * data.f_frsize,
            data_available=data.f_bavail * data.f_frsize,
            storage=storage.state(
                self.storage,
                data,
                failed=storage.failed(self._settings.ext4),
                second=storage.second_slot(self._settings.block_devices),
            ),
            machine=vm_state.status(self._vm_state()),
            web_fingerprint=public.web if public else "",
            ssh_fingerprint=public.ssh if public else "",
            audit=audit,
        )

    def _vm_state(self) -> vm_state.VmState | None:
        try:
            return vm_state.read(self._settings.vm_state)
        except (OSError, msgspec.DecodeError, ValueError) as error:
            log.warning("%s: %s", self._settings.vm_state, ascii(str(error)))
            return None


def _identity(path: Path) -> ImageIdentity:
    try:
        return msgspec.json.decode(store.read(path, LIMIT), type=ImageIdentity)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        log.error("%s: %s", path, ascii(str(error)))
        return ImageIdentity()

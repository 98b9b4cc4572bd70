"""The audit log: what operators did, what the VM did, and what was rejected.

There are four logs, each with files of its own, so that entries that anybody can cause push out none that are more
important:

* ``changes``: changes by operators, recorded before they begin and when they have ended. No entry is ever left out;
  their number is bounded by refusing changes (`Settings.change_rate`).
* ``sessions``: logins and ends of sessions. ``system``: starts and stops of backend and VM. ``rejected``: requests that
  were refused, which anybody can cause. A token bucket limits each of these three; entries beyond are only counted, and
  the next entry has their number.

Each log is a chain (`backend.daemon.chain`). ``python3 -I -m backend.daemon.audit check`` says whether it is whole.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec

from backend.daemon import chain
from backend.daemon.chain import Chain, Entry
from backend.daemon.ring import Kind, Rings
from backend.daemon.worker import Worker
from backend.protocol.rate_limit import Bucket, Clock
from backend.protocol.refusal import printable
from backend.protocol.system import AuditLog

log = logging.getLogger("audit")

CHANGES = Kind("changes", files=8, file_bytes=2 * 2**20)
SESSIONS = Kind("sessions", files=4, file_bytes=2 * 2**20, rate=1 / 30, burst=500.0)
SYSTEM = Kind("system", files=4, file_bytes=2**20, rate=1 / 60, burst=100.0)
REJECTED = Kind("rejected", files=4, file_bytes=2**20, rate=1 / 30, burst=50.0)
KINDS = (CHANGES, SESSIONS, SYSTEM, REJECTED)
"""By importance: when the disk is full, the last one gives up its oldest file first."""
BY_NAME = {kind.name: kind for kind in KINDS}
BYTES = sum(kind.files * kind.file_bytes for kind in KINDS)
"""Bytes of all files at most. The data partition has room for them (rootfs/spec/profile.py)."""
FOLDER = Path("/data/sallyport/audit")


class Audit:
    """The audit log. Never raises for a full or failing disk: management must go on; lost entries are counted and
    logged."""

    def __init__(self, rings: Rings, disk: Worker, boot_id: str, clock: Clock = time.monotonic) -> None:
        self._rings = rings
        self._disk = disk
        self._boot_id = boot_id
        self._buckets = {kind: Bucket(kind.rate, kind.burst, clock) for kind in KINDS if kind.rate}
        self._suppressed: Counter[Kind] = Counter()
        self._lost: Counter[Kind] = Counter()
        self._checked: list[Chain] | None = None
        self._started = False

    async def recent(self, kind: Kind) -> list[Entry]:
        """The newest entries of a log, oldest first: at most those of its newest file."""
        return await self._disk.run(self._rings.by_kind[kind.name].recent)

    async def record(
        self,
        event: str,
        *,
        outcome: str,
        kind: Kind = CHANGES,
        instruction: str = "",
        peer: str = "",
        session: str = "",
        vm: str = "",
        detail: str = "",
        budget: int | None = None,
    ) -> None:
        """Write one entry, or only count it if its log has too many. Never pass a secret.

        Returns when the entry is on the disk, or lost.
        """
        if (bucket := self._buckets.get(kind)) and bucket.take() > 0.0:
            self._suppressed[kind] += 1
            return
        self._started |= event == "backend.start"
        entry = Entry(
            seq=1,
            prev="",
            time=_utc_now(),
            boot_id=self._boot_id,
            event=event,
            outcome=outcome,
            instruction=instruction,
            peer=printable(peer),
            session=session,
            vm=vm,
            detail=printable(detail),
            budget=budget,
        )
        await self._write(kind, entry)

    async def reject(
        self, event: str, *, outcome: str, instruction: str = "", peer: str = "", detail: str = ""
    ) -> None:
        """Write one entry to ``rejected``, or only count it."""
        await self.record(
            event, kind=REJECTED, outcome=outcome, instruction=instruction, peer=peer, detail=detail
        )  # fmt: skip

    async def flush(self, *, all_of_them: bool = False) -> None:
        """Write entries for what was only counted, if no later entry has done so; to be called now and then."""
        if self._rings.dropped:
            names = [self._rings.dropped.pop(0) for _ in list(self._rings.dropped)]
            await self.record(
                "audit.dropped", kind=SYSTEM, outcome="ok", detail=f"the disk was full: {', '.join(names)}"
            )
        for kind, bucket in self._buckets.items():
            if (count := self._suppressed[kind]) and (all_of_them or bucket.take() == 0.0):
                detail = f"{count} further entries of this kind were only counted"
                entry = Entry(1, "", _utc_now(), self._boot_id, "audit.summary", "suppressed", detail=detail)
                await self._write(kind, entry)

    async def check(self) -> None:
        """Check the chains of all logs, in a thread of its own, which takes seconds; `state` has the result."""
        loop = asyncio.get_running_loop()
        try:
            self._checked = await loop.run_in_executor(None, check, self._rings.folder)
        except OSError as error:
            log.error("cannot check the audit log: %s", error)
            return
        for found in self._checked:
            for text in found.breaks:
                log.error("the audit log is damaged: %s", text)

    def state(self) -> AuditLog:
        """For ``status.get``."""
        entries, head = self._rings.by_kind[CHANGES.name].end
        if self._checked is None:
            return AuditLog("checking", "", entries, head)
        broken = sum(found.broken for found in self._checked)
        faults = [text for found in self._checked for text in found.breaks]
        return AuditLog("broken" if broken else "whole", faults[0][:120] if faults else "", entries, head)

    async def close(self) -> None:
        """Write the last entries, with the counts that are still open, and close the files."""
        await self.flush(all_of_them=True)
        # A backend that cannot start is restarted again and again; its entries must not push out older ones.
        if self._started:
            await self._write(SYSTEM, Entry(1, "", _utc_now(), self._boot_id, "backend.stop", "ok"))
        await self._disk.run(self._rings.close)

    async def _write(self, kind: Kind, entry: Entry) -> None:
        entry = msgspec.structs.replace(entry, suppressed=self._suppressed[kind], lost=self._lost[kind])
        self._suppressed[kind] = self._lost[kind] = 0
        try:
            await self._disk.run(lambda: self._rings.by_kind[kind.name].append(entry))
        except OSError as error:
            self._suppressed[kind] += entry.suppressed
            self._lost[kind] += entry.lost + 1
            log.error("entry lost (%s): %s", error.strerror, msgspec.json.encode(entry).decode())


def check(folder: Path, known: dict[str, dict[int, str]] | None = None) -> list[Chain]:
    """Verify all logs in a folder, or in a copy of it. Blocks.

    Args:
        folder: where the files are.
        known: hashes that were noted earlier, by log and number of the entry.

    Raises:
        OSError: a file cannot be read.
    """
    return [chain.verify(folder, kind.name, (known or {}).get(kind.name)) for kind in KINDS]


def main(words: list[str]) -> int:
    """``check [FOLDER] [KIND:NUMBER:HASH]...``: 0: whole, 1: broken, 2: wrong use. HASH was noted before."""
    known: dict[str, dict[int, str]] = {}
    folder = FOLDER
    for word in words[1:]:
        if match := re.fullmatch(rf"({'|'.join(kind.name for kind in KINDS)}):([0-9]{{1,18}}):([0-9a-f]{{64}})", word):
            known.setdefault(match[1], {})[int(match[2])] = match[3]
        else:
            folder = Path(word)
    if words[:1] != ["check"] or not folder.is_dir():
        print(f"{main.__doc__}\nThere has to be a folder of audit logs; by default it is {FOLDER}.", file=sys.stderr)
        return 2
    try:
        chains = check(folder, known)
    except OSError as error:
        print(f"the audit log cannot be read: {str(error)!a}", file=sys.stderr)
        return 1
    for found in chains:
        which = f"entries {found.first} to {found.last}, head {found.head}" if found.first else "no entry"
        torn = f", then {found.unfinished} bytes of an unfinished entry" if found.unfinished else ""
        print(f"{found.kind}: {which}{torn}: {f'broken in {found.broken} places' if found.broken else 'whole'}")
        for text in found.breaks:
            print(f"  {ascii(text)[1:-1]}")
    return 1 if any(found.broken for found in chains) else 0


def _utc_now() -> str:
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Judges of files: unix sockets, and what everybody may write."""

from __future__ import annotations

from collections.abc import Iterator

from proof.host.system.answers import Files
from proof.host.system.declaration import PLANTED, SOCKETS, WRITABLE
from proof.host.system.finding import Finding

_LISTENS = 0x10000
"""__SO_ACCEPTCON of linux/net.h, in the column Flags of /proc/net/unix."""
_STREAMS = (1, 5)


def unix_sockets(text: str) -> Iterator[str]:
    """Yield the addresses of sockets that accept unsolicited data; `ValueError` for a line that cannot be parsed."""
    for line in text.split("\n")[1:]:
        # Num RefCount Protocol Flags Type St Inode Path
        fields = line.split(None, 7)
        if not fields:
            continue
        if len(fields) < 7:
            raise ValueError(f"this is no line of /proc/net/unix: {line[:80]!r}")
        if len(fields) == 8 and (int(fields[4], 16) not in _STREAMS or int(fields[3], 16) & _LISTENS):
            yield fields[7]


def judge_sockets(answer: Files) -> Finding:
    """Judge the unix sockets of every network namespace: address, owner, mode."""
    finding = Finding(("/run/systemd/notify", "/run/systemd/journal/socket", "/run/sallyport/port/status.sock"))
    count = 0
    for name, space in answer.spaces.items():
        try:
            found = set(unix_sockets(space.unix))
        except ValueError as error:
            finding.blind.append(f"{name}: {error}")
            continue
        if not space.unix or space.error:
            finding.blind.append(f"{name}: no table of sockets: {space.error}")
        for path in sorted(found):
            count += 1
            if path not in SOCKETS:
                finding.holes.append(f"{name}: not declared: {path[:120]!r}")
                continue
            finding.seen |= {path} & set(finding.wanted)
            most, owner = SOCKETS[path]
            if path not in answer.owners:
                finding.blind.append(f"{path} cannot be seen")
                continue
            mode, user, _ = answer.owners[path]
            if user != owner or mode & 0o777 & ~most:
                finding.holes.append(f"{path} is of user {user} with mode {mode & 0o777:o}")
    finding.counted = f"{count} unix sockets"
    return finding


def judge_writable(answer: Files) -> Finding:
    """Judge the files and directories that everybody may write."""
    finding = Finding(PLANTED)
    planted = {path: path.rpartition("/")[0] for path in answer.planted}
    for path, mode, user in answer.writable:
        if path in planted:
            finding.seen.add(planted[path])
        elif mode & 0o170000 == 0o040000 and mode & 0o1000:
            continue  # sticky: nobody removes or replaces what is another's
        elif not WRITABLE.fullmatch(path):
            finding.holes.append(f"{path[:160]!r} (mode {mode & 0o7777:o}, user {user})")
    finding.seen &= set(PLANTED)
    finding.counted = f"{len(answer.writable)} looked at"
    return finding

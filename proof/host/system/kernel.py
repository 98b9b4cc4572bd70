"""Judges of the kernel: its mounts, its verified root, its settings, its lack of IPv6."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from proof.declared.kernel_settings import SYSCTL
from proof.host.system.answers import Kernel, Space
from proof.host.system.declaration import EXECUTABLE, FILE_SYSTEMS, LIVE, ONE_FILE, PER_INTERFACE, UNBUILT, VERITY
from proof.host.system.finding import Finding


@dataclass(frozen=True)
class Mount:
    """A line of proc_pid_mountinfo(5)."""

    point: str
    options: frozenset[str]
    kind: str
    source: str
    device: str

    @property
    def writable(self) -> bool:
        """Whether files can be made there."""
        return "ro" not in self.options and self.kind not in ("nsfs", "proc", "sysfs", "cgroup2", "autofs")


def mounts(text: str) -> Iterator[Mount]:
    """Yield the lines of mountinfo; `ValueError` for one that cannot be parsed."""
    for line in filter(None, text.split("\n")):
        left, separator, right = line.partition(" - ")
        fields, rest = left.split(), right.split()
        if not separator or len(fields) < 6 or len(rest) < 3:
            raise ValueError(f"this is no line of mountinfo: {line[:120]!r}")
        options = {*fields[5].split(","), *(["ro"] if "ro" in rest[2].split(",") else [])}
        yield Mount(fields[4], frozenset(options), rest[0], rest[1], fields[2])


def judge_mounts(answer: Kernel) -> Finding:
    """Judge mounts: none is writable and executable, none has setuid programs, the root is read-only."""
    finding = Finding(("/", "/data", "/run", "/tmp", "/dev", "/dev/shm"))
    try:
        found = list(mounts(answer.mounts))
    except ValueError as error:
        finding.blind.append(str(error))
        return finding
    for mount in found:
        finding.seen.add(mount.point)
        if mount.kind not in FILE_SYSTEMS:
            finding.holes.append(f"{mount.point} is a {mount.kind}")
        if mount.writable and "noexec" not in mount.options and mount.point not in EXECUTABLE:
            finding.holes.append(f"{mount.point} ({mount.kind}) can be written, and programs there can be run")
        if "nosuid" not in mount.options and mount.kind != "nsfs" and (mount.writable or mount.point not in ONE_FILE):
            finding.holes.append(f"{mount.point} ({mount.kind}) lets setuid programs run")
    roots = [mount for mount in found if mount.point == "/"]
    if any(mount.writable or mount.kind != "squashfs" for mount in roots):
        finding.holes.append("the root file system is not a read-only squashfs")
    finding.seen &= set(finding.wanted)
    finding.counted = f"{len(found)} mounts"
    return finding


def judge_root(answer: Kernel) -> Finding:
    """Judge the root: it is the dm-verity device with the hash of the kernel's command line."""
    finding = Finding(("verity table", "device reports valid blocks", "root is that device"))
    status, text = answer.tables
    table = VERITY.fullmatch(text.strip() + "\n") or VERITY.fullmatch(text.strip())
    named = re.findall(r"(?:\A|\s)sallyport\.roothash=(\S*)", answer.line)
    if status != 0:
        finding.blind.append(f"dmsetup failed: {text[:160]!r}")
    elif table is None:
        finding.holes.append(f"not one verity device: {text[:200]!r}")
    elif named != [table["hash"]]:
        finding.holes.append(f"root hash {table['hash']} and command line {named} differ")
    else:
        finding.seen.add("verity table")
    # "V": every block that was read was right; "C": one was not (verity.rst).
    if answer.states[0] == 0 and re.fullmatch(r"root: 0 \d+ verity V\s*", answer.states[1]):
        finding.seen.add("device reports valid blocks")
    elif answer.states[0] == 0:
        finding.holes.append(f"state of the device: {answer.states[1][:120]!r}")
    if answer.readonly != {"dm-0": "1"}:
        finding.holes.append(f"devices and whether they are read-only: {answer.readonly}")
    try:
        roots = [mount for mount in mounts(answer.mounts) if mount.point == "/"]
    except ValueError as error:
        finding.blind.append(str(error))
        return finding
    if [mount.source for mount in roots] in (["/dev/mapper/root"], ["/dev/dm-0"]):
        finding.seen.add("root is that device")
    elif roots:
        finding.holes.append(f"root is {', '.join(mount.source for mount in roots)}")
    return finding


def judge_settings(answer: Kernel, spaces: Mapping[str, Space]) -> Finding:
    """Judge the settings of the kernel and of every network namespace."""
    wanted = {key.replace(".", "/"): frozenset({value}) for key, value in SYSCTL.items()} | dict(LIVE)
    host = spaces["host"].settings if "host" in spaces else {}
    finding = Finding(tuple(sorted(wanted)))
    everything = {**answer.settings, **host}
    for key, allowed in wanted.items():
        if (value := everything.get(key)) is None:
            # All of the directory was read: what is not there is not built.
            if key in UNBUILT and any(other.startswith(key[: key.index("/") + 1]) for other in answer.settings):
                finding.seen.add(key)
            continue
        finding.seen.add(key)
        if value not in allowed:
            finding.holes.append(f"{key} is {value!r}, not {' or '.join(sorted(allowed))}")
    for name, space in spaces.items():
        if not space.settings:
            finding.blind.append(f"{name}: no settings: {space.error}")
        for key, value in space.settings.items():
            last = key.rpartition("/")[2]
            zero = (key.startswith("net/ipv4/conf/") and last in PER_INTERFACE) or key == "net/ipv4/ip_forward"
            if zero and value != "0":
                finding.holes.append(f"{name}: {key} is {value!r}")
    finding.counted = f"{len(everything)} settings, {len(spaces)} network namespaces"
    return finding


def judge_ipv6(answer: Kernel, spaces: Mapping[str, Space]) -> Finding:
    """Judge that the kernel has no IPv6."""
    finding = Finding(("IPv4 in every namespace", "ipv6.disable=1"))
    if answer.inet6 or any(key.startswith("net/ipv6/conf") for space in spaces.values() for key in space.settings):
        finding.holes.append("the kernel's IPv6 is there")
    for name, space in spaces.items():
        if "inet6" in space.links[1]:
            finding.holes.append(f"{name} has an IPv6 address")
    if spaces and all("net/ipv4/ip_forward" in space.settings for space in spaces.values()):
        finding.seen.add("IPv4 in every namespace")
    if "ipv6.disable=1" in answer.line.split():
        finding.seen.add("ipv6.disable=1")
    else:
        finding.holes.append("the kernel's command line leaves IPv6 on")
    return finding

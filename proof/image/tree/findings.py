"""Searches in a tree: each function looks for one kind of fault and yields what is not as declared."""

from __future__ import annotations

import fnmatch
import hashlib
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from proof.declared.kernel_settings import SYSCTL, VM_SYSCTL
from proof.declared.packet_rules import HOST_RULES, LINK_RULES, port_rules
from proof.image.tree.entries import MAX_FILE, Tree, forwarder, matches, way
from proof.image.tree.paths import (
    BANNED,
    MODULES,
    SYSTEMD,
    TEST_APPLETS,
    TEST_NAMES,
    TEST_PROGRAMS,
    TEST_SYSTEMD,
    TMP,
    UNITS,
    VENDOR,
)
from proof.image.tree.secrets import PUBLISHED, SECRETS, TEST_SECRETS
from proof.image.tree.services import FREE_KEYS, VENDOR_LINES, services
from proof.image.tree.settings import INITTAB, NO_SHELL, TEST_INITTAB
from proof.image.tree.syntax import chains, unit_lines


def setuid(tree: Tree) -> Iterator[str]:
    """Yield files with a setuid or setgid bit."""
    for entry in tree.entries:
        if entry.mode & (stat.S_ISUID | stat.S_ISGID):
            yield f"setuid or setgid: {entry}"


def capabilities(tree: Tree) -> Iterator[str]:
    """Yield files with capabilities (capabilities(7))."""
    for entry in tree.files():
        if tree.capability(entry):
            yield f"has capabilities: {entry}"


def writable(tree: Tree) -> Iterator[str]:
    """Yield what others than root may write."""
    for entry in tree.entries:
        if stat.S_ISLNK(entry.mode):
            continue
        sticky = stat.S_ISDIR(entry.mode) and entry.mode & stat.S_ISVTX
        if (entry.mode & stat.S_IWOTH and not sticky) or (entry.mode & stat.S_IWGRP and entry.gid):
            yield f"others may write {entry}"


def owners(tree: Tree) -> Iterator[str]:
    """Yield what is not owned by root: a service could change what it runs."""
    for entry in tree.entries:
        if entry.uid or entry.gid:
            yield f"not root's: {entry}"


def specials(tree: Tree) -> Iterator[str]:
    """Yield devices, pipes and sockets."""
    for entry in tree.entries:
        if stat.S_IFMT(entry.mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            yield f"neither file nor directory nor link: {entry}"


def programs(tree: Tree, *, allowed: frozenset[str], applets: frozenset[str]) -> Iterator[str]:
    """Yield undeclared executables and links to BusyBox, and symbolic links in a search path to anything else."""
    if tree.test_access:
        allowed, applets = allowed | TEST_PROGRAMS, applets | TEST_APPLETS
    for entry in tree.entries:
        name = entry.path.rpartition("/")[2]
        if stat.S_ISREG(entry.mode) and entry.mode & 0o111 and not matches(entry.path, allowed):
            yield f"not declared, and executable: {entry}"
        elif stat.S_ISLNK(entry.mode) and re.match(r"usr/(local/)?s?bin/", entry.path):
            busybox = re.fullmatch(r"(\.\./bin/)?busybox", entry.target) and name in applets
            if not busybox and (name, entry.target.rstrip("0123456789.")) != ("python3", "python"):
                yield f"not declared: {entry.path!r} -> {entry.target!r}"


def names(tree: Tree) -> Iterator[str]:
    """Yield files whose name matches a banned pattern."""
    for entry in tree.entries:
        name = entry.path.rpartition("/")[2]
        busybox = stat.S_ISLNK(entry.mode) and entry.target == "busybox"  # which of these: `programs`
        code = entry.path.startswith(("usr/lib/python3", MODULES))
        test = tree.test_access and name in TEST_NAMES
        if not busybox and not test and not (code and not matches(name, _PYTHON_HOOKS)) and matches(name, BANNED):
            yield f"must not be here: {entry}"


_PYTHON_HOOKS = ("*.pth", "sitecustomize*", "usercustomize*")
"""Names that Python runs at every start (module site); other banned names may be in its library."""


def systemd(tree: Tree) -> Iterator[str]:
    """Yield undeclared files in systemd's directories."""
    declared = {**SYSTEMD, **(TEST_SYSTEMD if tree.test_access else {})}
    for entry in tree.entries:
        if "systemd" not in entry.path.split("/")[:-1] or stat.S_ISDIR(entry.mode):
            continue
        pattern = next((p for p in declared if fnmatch.fnmatchcase(entry.path, p)), None)
        if pattern is None:
            yield f"not declared: {entry}"
        elif declared[pattern] != entry.target:
            yield f"{entry.path!r} -> {entry.target!r}, not {declared[pattern]!r}"


def configured(tree: Tree, *, allowed: frozenset[str], test: frozenset[str]) -> Iterator[str]:
    """Yield undeclared configuration files: of udev, modprobe, the loader, PAM, and all others."""
    allowed = allowed | (test if tree.test_access else frozenset())
    places = (
        "usr/lib/udev/",
        "usr/lib/modprobe.d/",
        "usr/lib/modules-load.d/",
        "usr/lib/sysctl.d/",
        "usr/lib/tmpfiles.d/",
    )
    for entry in tree.entries:
        if stat.S_ISDIR(entry.mode) or entry.path.startswith("etc/systemd/"):
            continue
        if (entry.path.startswith("etc/") and entry.path not in allowed) or entry.path.startswith(places):
            yield f"not declared: {entry}"


def _difference(where: str, found: Iterable[str], declared: Iterable[str]) -> Iterator[str]:
    have, want = Counter(found), Counter(declared)
    yield from (f"{where}: not declared: {line!r}" for line in sorted((have - want).elements()))
    yield from (f"{where}: missing: {line!r}" for line in sorted((want - have).elements()))


def sandbox(tree: Tree) -> Iterator[str]:
    """Yield lines of our services that are not as declared, and missing lines of systemd's own services."""
    for unit, declared in services(*way(tree)).items():
        lines = unit_lines(tree.text(UNITS + unit), "Service")
        guarded = [line for line in lines if line.partition("=")[0] not in FREE_KEYS]
        yield from _difference(unit, guarded, declared)
        # The order of these lines has a meaning: what starts first, and which filter overrides which.
        for key in ("SystemCallFilter=", "ExecStart"):
            if [li for li in guarded if li.startswith(key)] != [li for li in declared if li.startswith(key)]:
                yield f"{unit}: {key} lines are not in the declared order"
    for line in unit_lines(tree.text(TMP), "Mount"):
        if not {"nosuid", "nodev", "noexec"} <= {*line.removeprefix("Options=mode=1777,").split(",")}:
            yield f"tmp.mount: {line!r} is not the one line that forbids programs in /tmp"
    if not unit_lines(tree.text(TMP), "Mount"):
        yield "tmp.mount: nothing forbids programs in /tmp"
    for unit, needed in VENDOR_LINES.items():
        lines = unit_lines(tree.text(VENDOR + unit), "Service")
        yield from (f"{unit}: missing: {line!r}" for line in sorted(needed - set(lines)))


def terminals(tree: Tree) -> Iterator[str]:
    """Yield units that read from a terminal or start a shell, and sockets that are not unix sockets in /run."""
    for entry in tree.entries:
        if not stat.S_ISREG(entry.mode) or "systemd" not in entry.path.split("/") or entry.path.endswith(".so"):
            continue
        name = entry.path.rpartition("/")[2]
        if tree.test_access and entry.path in TEST_SYSTEMD:
            continue
        if name.endswith(".service") or "/system/" in entry.path:
            for line in unit_lines(tree.text(entry.path), "Service"):
                if re.match(r"StandardInput=(?!null\Z)", line):
                    yield f"{name}: {line}"
                elif re.match(r"Exec\w+=[-@:+!|]*(/usr)?(/s?bin/)?\w*(sh|busybox sh|getty|login)(\s+-\w+)*\s*\Z", line):
                    yield f"{name} starts a shell or a login: {line}"
            for line in unit_lines(tree.text(entry.path), "Socket"):
                if line.startswith("Listen") and not re.match(r"Listen(Stream|Datagram)=/run/systemd/journal/", line):
                    yield f"{name} listens elsewhere: {line}"


def inittab(tree: Tree) -> Iterator[str]:
    """Yield lines of the VM's inittab that are not declared, and missing ones."""
    lines = [line.strip() for line in tree.text("etc/inittab").split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    yield from _difference("inittab", lines, (*INITTAB, *(TEST_INITTAB if tree.test_access else ())))


def accounts(tree: Tree, *, declared: Mapping[str, int]) -> Iterator[str]:
    """Yield accounts with a password or a shell, or undeclared ones (passwd(5), shadow(5), group(5))."""
    seen: set[str] = set()
    for line in filter(None, tree.text("etc/passwd").split("\n")):
        fields = line.split(":")
        if len(fields) != 7 or fields[0] in seen or str(declared.get(fields[0])) != fields[2]:
            yield f"passwd: not declared: {line[:120]!r}"
        elif fields[1] not in ("x", "*", "!") or fields[6] != NO_SHELL:
            yield f"passwd: a password or a shell: {line[:120]!r}"
        seen.add(fields[0])
    yield from (f"passwd: missing: {name}" for name in sorted(declared.keys() - seen))
    for line in filter(None, tree.text("etc/group").split("\n")):
        fields = line.split(":")
        if len(fields) != 4 or fields[1] not in ("x", "*", "!") or fields[3]:
            yield f"group: a password or a member: {line[:120]!r}"
    for name in ("etc/shadow", "etc/gshadow", "etc/shadow-", "etc/passwd-"):
        if name in tree.by_path:
            # With "x" in passwd and no shadow nobody has a password at all.
            yield f"{name} must not be here"


def secrets(tree: Tree) -> Iterator[str]:
    """Yield keys, password hashes and tokens, but for published test keys of libraries."""
    for entry in tree.files():
        known: set[str] = set()
        for pattern, digests in PUBLISHED.items():
            known |= digests if fnmatch.fnmatchcase(entry.path, pattern) else set()
        data = tree.read(entry.path, MAX_FILE)
        for kind, secret in SECRETS.items():
            if tree.test_access and kind == "authorized key" and entry.path in TEST_SECRETS:
                continue
            for match in secret.find(data):
                if digest(match[0]) not in known:
                    yield f"{kind} in {entry.path!r} at {match.start()}, digest {digest(match[0])}"


def digest(found: bytes) -> str:
    """Return the digest by which a published key is known: 16 hex digits of its SHA-256."""
    return hashlib.sha256(found.strip()).hexdigest()[:16]


def sysctl(tree: Tree) -> Iterator[str]:
    """Yield kernel settings of the host that are not as declared."""
    lines = [line.strip() for line in tree.text("etc/sysctl.d/sallyport.conf").split("\n")]
    found = [re.sub(r"\s*=\s*", "=", line, count=1) for line in lines if line and line[0] not in "#;"]
    yield from _difference("sysctl.d", found, (f"{key}={value}" for key, value in SYSCTL.items()))


def vm_sysctl(tree: Tree) -> Iterator[str]:
    """Yield kernel settings that the VM's start does not make, or overrides later."""
    text = "\n".join(line for line in tree.text("etc/init.d/setup").split("\n") if not line.lstrip().startswith("#"))
    commands = [command for command in re.sub(r"\\\n", " ", text).split("\n") if command.startswith("sysctl ")]
    last: dict[str, str] = {}
    for word in " ".join(commands).split():
        key, equals, value = word.partition("=")
        if equals:
            last[key] = value
    for key, value in VM_SYSCTL.items():
        if last.get(key) != value:
            yield f"setup: {key} is {last.get(key)!r}, not {value!r}"
    if re.search(r"/proc/sys/(?!kernel/modules_disabled)", text):
        yield "setup: writes to /proc/sys by another way"


def rules(tree: Tree) -> Iterator[str]:
    """Yield packet rules that are not as declared, line by line and in order."""
    files = {"host": HOST_RULES, "link": LINK_RULES, "port": port_rules(forwarder(tree))}
    for file, declared in files.items():
        found, outside = chains(tree.text(f"etc/sallyport/{file}.nft"))
        tables = {name.rpartition(" ")[0] for name in declared}
        known = [f"{verb} {table}" for table in sorted(tables) for verb in ("table", "delete table")]
        yield from _difference(f"{file}.nft", outside, known)
        for name in sorted(found.keys() | declared.keys()):
            if name not in declared or name not in found:
                yield f"{file}.nft: chain {name!r} is {'missing' if name in declared else 'not declared'}"
            elif found[name] != declared[name]:
                more = [line for line in found[name] if line not in declared[name]]
                gone = [line for line in declared[name] if line not in found[name]]
                yield f"{file}.nft: chain {name!r}: not declared {more}, missing {gone}, or in another order"


def packages(tree: Tree, *, package: str) -> Iterator[str]:
    """Yield Python code that belongs to the other side: the host runs nothing of the VM, the VM nothing of the host."""
    for entry in tree.entries:
        if re.match(
            rf"usr/lib/python3[^/]*/(dist|site)-packages/(?!{package}(/|\Z))(backend|docs|driver|frontend_vm|overlays|proof|rootfs|tests)\b",
            entry.path,
        ):
            yield f"must not be here: {entry}"


def vm_packages(tree: Tree) -> Iterator[str]:
    """Yield Python code in the VM that is not the VM's, and systemd's files."""
    yield from packages(tree, package="frontend_vm")
    yield from systemd(tree)


def manifest(tree: Tree, *, listed: Mapping[str, str]) -> Iterator[str]:
    """Yield files that the manifest does not list, or lists with another digest."""
    there = {entry.path for entry in tree.files()}
    yield from (f"not in the manifest: {path!r}" for path in sorted(there - listed.keys()))
    yield from (f"in the manifest only: {path!r}" for path in sorted(listed.keys() - there))
    for path in sorted(there & listed.keys()):
        if hashlib.sha256(tree.read(path, MAX_FILE)).hexdigest() != listed[path]:
            yield f"not the manifest's: {path!r}"


@dataclass(frozen=True)
class OwnFile:
    """A file that this checkout builds: the ``target`` of a link; else its SHA-256 and whether it is executable."""

    target: str
    sha256: str
    executable: bool


def own(tree: Tree, *, made: Mapping[str, OwnFile]) -> Iterator[str]:
    """Yield our own files that are not as this checkout builds them, and foreign files among our code."""
    for path, wanted in sorted(made.items()):
        entry = tree.by_path.get(path)
        if entry is None:
            yield f"missing: {path!r}"
        elif entry.target != wanted.target:
            yield f"{path!r} -> {entry.target!r}, not {wanted.target!r}"
        elif not wanted.target:
            if hashlib.sha256(tree.read(path, MAX_FILE)).hexdigest() != wanted.sha256:
                yield f"not what this checkout builds: {path!r}"
            if bool(entry.mode & 0o111) != wanted.executable:
                yield f"{'not ' if wanted.executable else ''}executable: {path!r}"
    places = {path.rpartition("/")[0] for path in made if path.startswith("usr/lib/")}
    for entry in tree.entries:
        folder = entry.path.rpartition("/")[0]
        if folder in places - SHARED and entry.path not in made and not stat.S_ISDIR(entry.mode):
            yield f"not this checkout's: {entry}"


SHARED = frozenset({"usr/lib"})
"""Below /usr/lib: where others' files lie, too."""

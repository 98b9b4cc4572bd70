"""The run of all judges on what the host tells."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proof.host.system.answers import Files, Kernel, Processes, Programs, Reference, Space
from proof.host.system.files import judge_sockets, judge_writable
from proof.host.system.finding import Finding
from proof.host.system.kernel import judge_ipv6, judge_mounts, judge_root, judge_settings
from proof.host.system.network import judge_interfaces, judge_routes
from proof.host.system.processes import judge_processes, judge_terminals, judge_vm
from proof.host.system.programs import judge_programs
from proof.host.system.rules import judge_rules
from proof.remote_script import RemoteScript, RemoteScriptError, RunOnHost, assemble
from proof.result import Result
from rootfs.spec.profile import Forwarder

_TRIED = {
    "root": "the root file system's device: its hash tree, and its root hash against the kernel's command line",
    "mounts": "every mount: none is both writable and executable, and none allows setuid programs",
    "settings": "settings of the kernel and of every interface in every network namespace",
    "ipv6": "traces of an IPv6 stack in the kernel and every network namespace",
    "processes": "every process and thread: user, groups, capabilities, system-call filter, network namespace",
    "terminals": "every process: whether it has a terminal or reads from one",
    "vm": "each word of the VM's QEMU and each file that it has open",
    "interfaces": "interfaces, addresses and XDP programs of every network namespace",
    "routes": "routes, routing policies, neighbour proxies of every network namespace",
    "rules": "packet rules of every network namespace against the image's own, loaded beside them",
    "programs": "every BPF program, what is attached to interfaces, queueing disciplines",
    "sockets": "unix sockets of every network namespace: path, owner, mode",
    "writable": "files and directories in /run, /data, /tmp, /dev that everybody may write",
}


PARTS: Mapping[str, type[Any]] = {
    "kernel": Kernel,
    "processes": Processes,
    "network": dict[str, Space],
    "reference": dict[str, Reference],
    "programs": Programs,
    "files": Files,
}
"""The parts of the script, with the type of each answer."""
MAX_ANSWER = 1 << 22
"""Bytes of one answer: a full host's processes and rules are some hundred kB."""


@functools.cache
def script(part: str) -> RemoteScript[Any]:
    """Return the script that reads one of `PARTS`."""
    folder = Path(__file__).parent
    source = assemble(folder.parent / "namespaces_script.py", folder / "script.py", main=f"answer(part_{part}())")
    return RemoteScript(source, PARTS[part], MAX_ANSWER)


def run_system(run: RunOnHost, forwarder: Forwarder | None = None, arch: str = "x86_64") -> list[Result]:
    """Read the state of the running host and judge it; one result for each entry of `_TRIED`.

    Args:
        run: runs a command line in the host's root shell; what it raises, but for `OSError`, passes through.
        forwarder: the datapath that the image's profile names; the default profile's if None.
        arch: the architecture that the profile names.
    """
    way = forwarder or Forwarder()
    answers: dict[str, Any] = {}
    trouble: dict[str, str] = {}
    for part in PARTS:
        try:
            answers[part] = script(part).run_on_host(run)
        except RemoteScriptError as error:
            trouble[part] = str(error)
    judges: Mapping[str, tuple[tuple[str, ...], Callable[..., Finding]]] = {
        "root": (("kernel",), judge_root),
        "mounts": (("kernel",), judge_mounts),
        "settings": (("kernel", "network"), judge_settings),
        "ipv6": (("kernel", "network"), judge_ipv6),
        "processes": (("processes", "network"), lambda p, n: judge_processes(p, n, way)),
        "terminals": (("processes",), judge_terminals),
        "vm": (("processes",), lambda p: judge_vm(p, way, arch)),
        "interfaces": (("network",), lambda n: judge_interfaces(n, way)),
        "routes": (("network",), judge_routes),
        "rules": (("network", "reference"), lambda n, r: judge_rules(n, r, way)),
        "programs": (("programs",), lambda p: judge_programs(p, way)),
        "sockets": (("files",), judge_sockets),
        "writable": (("files",), judge_writable),
    }
    results: list[Result] = []
    for name, (needs, judge) in judges.items():
        began = time.monotonic()
        blind = [f"{part}: {trouble[part]}" for part in needs if part in trouble]
        finding = Finding(("the host's answer",), blind=blind) if blind else judge(*(answers[part] for part in needs))
        results.append(finding.result(name, _TRIED[name], began))
    return results

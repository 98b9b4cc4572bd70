"""The judges of the running host: silent on the declared one, loud on each deviation, and blind when they are."""

from __future__ import annotations

import copy
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from backend.guests.accelerator import Accelerator
from backend.guests.machine_type import MICROVM
from backend.guests.vm import TapDescriptors, command
from backend.protocol import link_plan
from proof.declared.kernel_settings import SYSCTL
from proof.declared.packet_rules import HOST_RULES, LINK_RULES, port_rules
from proof.host.system import declaration, run_system
from proof.host.system.processes import mask
from proof.host.system.rules import _HEAD, _normal
from proof.host.system.run import PARTS, script
from proof.remote_answer import framed
from proof.remote_script import HOST_TRIES, MAX_LINE
from proof.result import Result, Verdict
from rootfs.spec.profile import DATAPATHS, Forwarder

HOST_NET, PORT_NET, VM_NET = "net:[4026531840]", "net:[4026532301]", "net:[4026532402]"
HASH = "ab" * 32
MOUNTS = """\
22 1 254:0 / / ro,nosuid,nodev,relatime shared:1 - squashfs /dev/mapper/root ro,errors=continue
23 22 253:4 / /data rw,nosuid,nodev,noexec,noatime shared:2 - ext4 /dev/vda4 rw,commit=5
24 22 0:5 / /dev rw,nosuid,noexec shared:3 - devtmpfs dev rw,size=400000k,mode=755
31 24 0:31 / /dev/shm rw,nosuid,nodev,noexec shared:10 - tmpfs shm rw
25 22 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:4 - proc proc rw
26 22 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:5 - sysfs sys rw
27 22 0:24 / /run rw,nosuid,nodev,noexec shared:7 - tmpfs run rw,size=90000k,mode=755
28 22 0:30 / /tmp rw,nosuid,nodev,noexec shared:8 - tmpfs tmpfs rw
29 27 0:4 net:[4026532301] /run/netns/mgmt rw shared:9 - nsfs nsfs rw
"""
UNIX = """\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00000000 0002 01  1001 /run/systemd/notify
0000000000000000: 00000002 00000000 00000000 0002 01  1002 /run/systemd/journal/socket
0000000000000000: 00000002 00000000 00010000 0001 01  1003 /run/sallyport/port/status.sock
0000000000000000: 00000003 00000000 00000000 0001 03  1004 /run/sallyport/port/status.sock
0000000000000000: 00000003 00000000 00000000 0001 03  1005
"""
Parts = dict[str, Any]
Deviation = Callable[[Parts], Any]


def status(uid: int, groups: str = "", caps: int = 0, bound: int = 0, confined: bool = True) -> dict[str, str]:
    four, flag = "\t".join([str(uid)] * 4), "1" if confined else "0"
    sets = dict.fromkeys(("CapEff", "CapPrm"), f"{caps:016x}") | dict.fromkeys(("CapInh", "CapAmb"), "0" * 16)
    fields = {"Uid": four, "Gid": four, "Groups": groups, **sets, "CapBnd": f"{bound:016x}"}
    return {**fields, "NoNewPrivs": flag, "Seccomp": "2" if confined else "0"}


def process(pid: int, exe: str, words: str, said: Mapping[str, str], **more: Any) -> dict[str, Any]:
    thread = " ".join(said[key] for key in ("Uid", "CapEff", "CapPrm", "NoNewPrivs", "Seccomp"))
    base = {"pid": pid, "parent": 1, "terminal": 0, "flags": 0x400000, "exe": exe, "words": words.split()}
    rest = {"status": dict(said), "threads": [thread], "files": [["/dev/null", 0]], "net": HOST_NET, "group": "0::/x"}
    return {**base, **rest, **more}


def qemu(way: Forwarder) -> list[str]:
    ends = TapDescriptors(None if way.vm == "vhost-user" else 8, 9)
    kvm = Accelerator("kvm", "")
    handed = sorted(declaration.HANDED)
    return command(MICROVM, kvm, ends, memory_mib=192, cpus=1, access_mac="02:5a:11:34:56:78", handed=handed)


def processes(way: Forwarder) -> dict[str, Any]:
    everything, python, box = mask(declaration.ALL), "/usr/bin/python3.13", "/usr/bin/busybox"
    root = status(0, caps=everything, bound=everything, confined=False)
    journal, logs = mask(declaration.JOURNAL), "/usr/lib/systemd/systemd-journald"
    opens = mask({"ring": "NET_RAW NET_ADMIN", "kernel": "BPF PERFMON NET_ADMIN"}.get(way.port, "NET_ADMIN"))
    port = status(902, "900 901 902", opens if way.port == "bridge" else 0, opens)
    backend = process(300, python, "/usr/bin/python3 -I -m backend.daemon.main", status(900, "900 903 "))
    backend["files"].append(["/dev/console", 1])
    terminal = {"terminal": 0x441, "files": [["/dev/ttyS1", 2]]}
    vm = process(302, "/usr/bin/qemu-system-x86_64-microvm", "", status(901, "104 901 903"))
    vm |= {
        "words": qemu(way),
        "parent": 301,
        "net": VM_NET,
        "files": [["/dev/kvm", 2], ["anon_inode:kvm-vm", 2], ["socket:[99]", 2], ["pipe:[7]", 1]],
    }
    supervisor = process(
        301, python, "/usr/bin/python3 -I -m backend.guests.supervisor", status(901, "104 901 903"), net=VM_NET
    )
    supervisor["files"] += [["socket:[98]", 2], ["pipe:[7]", 0], ["pipe:[7]", 1]]
    forwarder = process(303, python, "/usr/bin/python3 -I -m backend.forwarder", port, net=PORT_NET)
    return {
        "self": 403,
        "processes": [
            process(1, "/usr/lib/systemd/systemd", "/usr/lib/systemd/systemd", root),
            process(2, "", "", root, flags=0x208040, parent=0),
            process(200, logs, logs, status(0, "", journal, journal)),
            backend,
            supervisor,
            vm,
            forwarder,
            process(400, box, "/bin/sh /usr/lib/sallyport/test-shell", root, **terminal),
            process(401, box, "sh", root, **terminal, parent=400),
            process(402, box, "cat", root, **terminal, parent=400),
            process(403, python, "python3 -I -c x", root, **terminal, parent=401),
        ],
    }


def rules(chains: Mapping[str, tuple[str, ...]], handle: int = 1) -> list[Any]:
    """As ``nft -j`` prints it; the text of a rule stands for its expression."""
    pieces: list[dict[str, Any]] = [{"metainfo": {"version": "1.1.3"}}]
    for table in dict.fromkeys(name.rpartition(" ")[0] for name in chains):
        family, name = table.split()
        pieces.append({"table": {"family": family, "name": name, "handle": handle}})
        pieces.append(
            {"counter": {"family": family, "table": name, "name": "a", "packets": handle, "bytes": 60 * handle}}
        )
        if family == "netdev" and any("@vm" in line for lines in chains.values() for line in lines):
            elements = {"elem": ["02:5a:11:34:56:78"]} if handle > 1 else {}
            pieces.append({"set": {"family": family, "table": name, "name": "vm", "type": "ether_addr", **elements}})
    for full, lines in chains.items():
        family, table, name = full.split()
        chain = {"family": family, "table": table, "name": name, "handle": handle}
        if match := _HEAD.fullmatch(lines[0]):
            chain |= {"type": "filter", "hook": match["hook"], "prio": 0, "policy": "drop"}
            chain |= {"dev": match["dev"]} if match["dev"] else {}
        pieces.append({"chain": chain})
        for line in lines[1:]:
            rule = {"family": family, "table": table, "chain": name, "handle": handle, "expr": [{"text": line}]}
            pieces.append({"rule": rule})
    return [0, json.dumps({"nftables": pieces})]


def interface(name: str, flags: str, mac: str = "", address: str = "") -> dict[str, Any]:
    local, _, prefix = address.partition("/")
    infos = [{"family": "inet", "local": local, "prefixlen": int(prefix)}] if address else []
    return {"ifname": name, "flags": flags.split(), "address": mac, "addr_info": infos}


PORT_NIC = interface("mgmt0", "BROADCAST NOARP UP LOWER_UP")


def settings(names: list[str]) -> dict[str, str]:
    found = {key.replace(".", "/"): value for key, value in SYSCTL.items() if key.startswith("net.")}
    for name in (*names, "all", "default"):
        found |= {f"net/ipv4/conf/{name}/{key}": "0" for key in declaration.PER_INTERFACE}
    return found


def network(way: Forwarder) -> dict[str, Any]:
    policies = [{"priority": number, "table": table, "src": "all"} for number, table in declaration.POLICIES]
    common = {"policies": [0, json.dumps(policies)], "proxies": [0, ""], "neighbours": [0, "[]"]}
    routes = [
        {"dst": "169.254.254.0/30", "dev": "link0", "protocol": "kernel", "prefsrc": "169.254.254.1", "flags": []},
        {"type": "local", "dst": "127.0.0.0/8", "dev": "lo", "table": "local"},
        {"type": "local", "dst": "169.254.254.1", "dev": "link0", "table": "local"},
        {"type": "broadcast", "dst": "127.255.255.255", "dev": "lo", "table": "local"},
    ]
    host = [
        interface("lo", "LOOPBACK UP LOWER_UP", "00:00:00:00:00:00", "127.0.0.1/8"),
        interface("link0", "BROADCAST UP LOWER_UP", link_plan.BACKEND_MAC, "169.254.254.1/30"),
    ]
    names = ["mgmt0"] + (["access0"] if way.vm == "tap" else []) + (["br0"] if way.port == "bridge" else [])
    nics = [interface(name, "BROADCAST NOARP UP LOWER_UP") | {"mtu": way.port_mtu} for name in names]
    port = [interface("lo", "LOOPBACK"), *nics]
    return {
        "host": {
            **common,
            "path": "/proc/1/ns/net",
            "links": [0, json.dumps(host)],
            "routes": [0, json.dumps(routes)],
            "rules": rules({**HOST_RULES, **LINK_RULES}, 7),
            "settings": settings(["lo", "link0"]),
        },
        PORT_NET: {
            **common,
            "path": "/run/netns/mgmt",
            "links": [0, json.dumps(port)],
            "routes": [0, "[]"],
            "rules": rules(port_rules(way), 9),
            "settings": settings(names),
        },
        VM_NET: {
            **common,
            "path": "/proc/302/ns/net",
            "links": [0, json.dumps([interface("lo", "LOOPBACK UP LOWER_UP", "", "127.0.0.1/8")])],
            "routes": [0, json.dumps(routes[1:2])],
            "rules": rules({}),
            "settings": settings([]),
        },
    }


def programs(way: Forwarder) -> dict[str, Any]:
    one = int(way.port == "kernel")
    loaded = [[15, 0, "sd_devices"], [8, 0, "sd_fw_ingress"], *([[3, 902, "from_port"]] * one)]
    attached = {"mgmt0 ingress": one, "mgmt0 egress": 0, "lo ingress": 0}
    attached |= {"access0 ingress": one} if way.vm == "tap" else {}
    port = {"path": "/run/netns/mgmt", "disciplines": [["mgmt0", "mq"], ["mgmt0", "fq_codel"]], "attached": attached}
    host = {"path": "/proc/1/ns/net", "disciplines": [["lo", "noqueue"], ["link0", "fq_codel"]], "attached": {}}
    return {"loaded": loaded, "end": 2, "spaces": {"host": host, PORT_NET: port}}


def clean(name: str = "ring") -> Parts:
    """What the script tells of the declared host."""
    port, vm = DATAPATHS[name]
    way = Forwarder.model_validate({"port": port, "vm": vm})
    kernel_settings = {key.replace(".", "/"): value for key, value in SYSCTL.items() if not key.startswith("net.")}
    live = {key: sorted(values)[-1] for key, values in declaration.LIVE.items()}
    planted = [f"{top}/sallyport-probe-403" for top in declaration.PLANTED]
    owners = {"/run/systemd/notify": [0o140777, 0, 0], "/run/systemd/journal/socket": [0o140666, 0, 0]}
    owners |= {"/run/sallyport/port/status.sock": [0o140660, 902, 900]}
    writable = [["/dev/null", 0o20666, 0], ["/tmp/x", 0o41777, 0], *([path, 0o100666, 0] for path in planted)]
    return {
        "kernel": {
            "mounts": MOUNTS,
            "line": f"console=ttyS0 sallyport.roothash={HASH} sallyport.verity=9,00 ipv6.disable=1\n",
            "tables": [
                0,
                f"root: 0 118 verity 1 254:2 254:2 4096 4096 9 9 sha256 {HASH} {'cd' * 32} 1 restart_on_corruption \n",
            ],
            "states": [0, "root: 0 118 verity V\n"],
            "readonly": {"dm-0": "1"},
            "settings": {**kernel_settings, **live},
            "inet6": False,
        },
        "processes": processes(way),
        "network": network(way),
        "reference": {
            "host": {"failed": [], "rules": rules({**HOST_RULES, **LINK_RULES})},
            "mgmt": {"failed": [], "rules": rules(port_rules(way))},
        },
        "programs": programs(way),
        "files": {
            "spaces": {"host": {"path": "/proc/1/ns/net", "unix": UNIX}, PORT_NET: {"path": "x", "unix": UNIX}},
            "owners": owners,
            "planted": planted,
            "writable": writable,
        },
    }


def judged(parts: Parts, name: str = "ring") -> dict[str, Result]:
    port, vm = DATAPATHS[name]
    answers = {script(part).command(): framed(answer) for part, answer in parts.items()}
    way = Forwarder.model_validate({"port": port, "vm": vm})
    results = run_system(lambda command: (0, f"# echo\r\n{answers[command]}\r\n"), way)
    return {result.name: result for result in results}


@pytest.mark.parametrize("name", DATAPATHS)
def test_the_declared_host_is_sealed(name: str) -> None:
    results = judged(clean(name), name)
    assert [(n, r.evidence, r.control) for n, r in results.items() if r.verdict is not Verdict.SEALED] == []
    assert len(results) == 13


def _add(**more: Any) -> Deviation:
    """One more process like the backend, with other fields."""
    return lambda parts: parts["processes"]["processes"].append({**_of(parts, 300), "pid": 900, **more})


def _of(parts: Parts, pid: int) -> dict[str, Any]:
    found: dict[str, Any] = next(p for p in parts["processes"]["processes"] if p["pid"] == pid)
    return found


def _status(pid: int, key: str, value: str) -> Deviation:
    return lambda parts: _of(parts, pid)["status"].update({key: value})


def _words(*words: str) -> Deviation:
    return lambda parts: _of(parts, 302)["words"].extend(words)


def _text(part: str, key: str, old: str, new: str) -> Deviation:
    def change(parts: Parts) -> None:
        text = json.dumps(parts[part][key])
        assert json.dumps(old)[1:-1] in text
        parts[part][key] = json.loads(text.replace(json.dumps(old)[1:-1], json.dumps(new)[1:-1], 1))

    return change


def _list(space: str, key: str, item: dict[str, Any]) -> Deviation:
    def change(parts: Parts) -> None:
        listed = parts["network"][space][key]
        listed[1] = json.dumps([*json.loads(listed[1] or "[]"), item])

    return change


def _nft(space: str, change: Callable[[list[dict[str, Any]]], Any]) -> Deviation:
    def deviate(parts: Parts) -> None:
        listed = parts["network"][space]["rules"]
        pieces = json.loads(listed[1])["nftables"]
        change(pieces)
        listed[1] = json.dumps({"nftables": pieces})

    return deviate


def _first_rule(pieces: list[dict[str, Any]]) -> None:
    at = next(number for number, piece in enumerate(pieces) if "rule" in piece)
    pieces.insert(at, {"rule": {**pieces[at]["rule"], "expr": [{"accept": None}]}})


def _swap(pieces: list[dict[str, Any]]) -> None:
    at = next(number for number, piece in enumerate(pieces) if "rule" in piece)
    pieces[at], pieces[at + 1] = pieces[at + 1], pieces[at]


def _policy(pieces: list[dict[str, Any]]) -> None:
    next(p["chain"] for p in pieces if p.get("chain", {}).get("hook") == "ingress")["policy"] = "accept"


def _up(links: list[Any]) -> None:
    links[1] = links[1].replace('"LOOPBACK"', '"LOOPBACK", "UP"')


def _everywhere(parts: Parts) -> None:
    """The image's own files accept by default: live rules and reference agree, and are both wrong."""
    _nft("host", _policy)(parts)
    parts["reference"]["host"]["rules"] = parts["network"]["host"]["rules"]


BUSYBOX = {"exe": "/usr/bin/busybox", "parent": 401, "terminal": 0x441}
DEVIATIONS: tuple[tuple[str, Deviation], ...] = (
    ("processes", _add(words=["python3", "-I", "-c", "import os"], status=status(0, confined=False), parent=401)),
    ("processes", _add(words=["/bin/sh"], **BUSYBOX)),
    ("processes", _add(words=["cat"], **BUSYBOX)),
    ("processes", _add()),  # a second backend
    ("processes", _status(300, "Uid", "900\t0\t900\t900")),
    ("processes", _status(300, "Groups", "900 903 0")),
    ("processes", _status(303, "CapPrm", f"{mask('NET_ADMIN'):016x}")),
    ("processes", _status(302, "CapBnd", f"{mask('SYS_ADMIN'):016x}")),
    ("processes", _status(301, "Seccomp", "0")),
    ("processes", _status(302, "NoNewPrivs", "0")),
    ("processes", lambda parts: _of(parts, 303)["threads"].append("902\t902\t902\t902 0000000000003000 0 1 2")),
    ("processes", lambda parts: _of(parts, 303).update(net=HOST_NET)),
    ("processes", lambda parts: _of(parts, 300).update(net=PORT_NET)),
    ("processes", lambda parts: _of(parts, 302).update(net=HOST_NET)),
    ("processes", lambda parts: _of(parts, 301).update(net=PORT_NET)),
    ("processes", lambda parts: _of(parts, 303).update(net=VM_NET)),
    ("settings", lambda parts: parts["kernel"]["settings"].update({"cpu/smt": "1"})),
    ("interfaces", lambda parts: _list(VM_NET, "links", interface("tap9", "BROADCAST UP"))(parts)),
    ("processes", lambda parts: _of(parts, 300).update(exe="/data/sallyport/x")),
    ("processes", lambda parts: _of(parts, 401).update(exe="/data/sh")),
    ("terminals", lambda parts: _of(parts, 300).update(terminal=0x440)),
    ("terminals", lambda parts: _of(parts, 300)["files"].append(["/dev/ttyS0", 2])),
    ("terminals", _add(words=["sh"], files=[["/dev/ttyS0", 0]], **BUSYBOX)),
    ("vm", _words("-qmp", "tcp:127.0.0.1:4444,server=on,wait=off")),
    ("vm", _words("-monitor", "stdio")),
    ("vm", _words("-device", "virtio-rng-device")),
    ("vm", _words("-netdev", "hubport,id=more,hubid=7")),
    ("vm", _words("-virtfs", "local,path=/,mount_tag=x,security_model=none")),
    ("vm", _words("-fw_cfg", "name=opt/sallyport/backend.key,file=/run/sallyport/guest/key")),
    ("vm", _words("-S")),
    ("vm", lambda parts: _of(parts, 302)["words"].remove("-nodefaults")),
    ("vm", lambda parts: _of(parts, 302)["files"].append(["/data/identity/web.key", 0])),
    ("vm", lambda parts: _of(parts, 302)["files"].append(["socket:[98]", 2])),
    ("mounts", _text("kernel", "mounts", "/run rw,nosuid,nodev,noexec", "/run rw,nosuid,nodev")),
    ("mounts", _text("kernel", "mounts", "- squashfs", "- ext4")),
    ("mounts", _text("kernel", "mounts", "- tmpfs tmpfs rw", "- 9p share rw")),
    ("mounts", _text("kernel", "mounts", "/data rw,nosuid", "/data rw")),
    ("mounts", _text("kernel", "mounts", "/ ro,nosuid", "/ ro")),
    ("mounts", _text("kernel", "mounts", "/dev/shm rw,nosuid,nodev,noexec", "/dev/shm rw,nosuid,nodev")),
    ("root", _text("kernel", "tables", HASH, "00" * 32)),
    ("root", _text("kernel", "tables", " 1 restart_on_corruption", "")),
    ("root", _text("kernel", "tables", "verity", "linear")),
    ("root", _text("kernel", "states", "verity V", "verity C")),
    ("root", _text("kernel", "mounts", "/dev/mapper/root", "/dev/vda2")),
    ("root", lambda parts: parts["kernel"]["readonly"].update({"dm-1": "0"})),
    ("settings", lambda parts: parts["kernel"]["settings"].update({"kernel/modules_disabled": "0"})),
    ("settings", lambda parts: parts["kernel"]["settings"].update({"kernel/core_pattern": "|/data/x"})),
    ("settings", lambda parts: parts["network"]["host"]["settings"].update({"net/ipv4/ip_forward": "1"})),
    ("settings", lambda p: p["network"][PORT_NET]["settings"].update({"net/ipv4/conf/mgmt0/proxy_arp": "1"})),
    ("ipv6", lambda parts: parts["kernel"].update(inet6=True)),
    ("ipv6", _text("kernel", "line", "ipv6.disable=1", "ipv6.disable=0")),
    ("ipv6", lambda parts: parts["network"]["host"]["settings"].update({"net/ipv6/conf/all/forwarding": "0"})),
    ("interfaces", _list(PORT_NET, "links", interface("mgmt1", "NOARP", "", "192.168.42.77/24"))),
    ("interfaces", _list("host", "links", interface("eth1", "BROADCAST UP"))),
    ("interfaces", lambda p: p["network"][PORT_NET].update(links=[0, json.dumps([PORT_NIC | {"mtu": 586}])])),
    ("interfaces", lambda parts: parts["network"].update({"net:[5]": {**parts["network"]["host"], "path": "x"}})),
    ("interfaces", lambda p: p["network"][PORT_NET].update(links=[0, json.dumps([interface("mgmt0", "UP")])])),
    ("interfaces", _list("host", "links", {**interface("eth1", ""), "xdp": {"mode": 1}})),
    ("interfaces", lambda parts: _up(parts["network"][PORT_NET]["links"])),
    ("routes", _list("host", "routes", {"dst": "default", "gateway": "169.254.254.2", "dev": "link0"})),
    ("routes", _list(PORT_NET, "routes", {"type": "local", "dst": "192.168.42.128/25", "dev": "lo"})),
    ("routes", _list("host", "policies", {"priority": 5, "table": "7"})),
    ("routes", _list("host", "proxies", {"dst": "192.168.42.9", "dev": "link0"})),
    ("rules", _nft(PORT_NET, _first_rule)),
    ("rules", _nft("host", _first_rule)),
    ("rules", _nft("host", _swap)),
    ("rules", _nft(PORT_NET, _policy)),
    ("rules", _everywhere),
    ("rules", _nft("host", lambda pieces: pieces.pop())),
    ("rules", lambda parts: parts["network"][PORT_NET].update(rules=rules({}))),
    ("rules", lambda parts: parts["network"].update({"net:[5]": {"path": "x", "rules": rules(LINK_RULES)}})),
    ("programs", lambda parts: parts["programs"]["loaded"].append([6, 0, "xdp"])),
    ("programs", lambda parts: parts["programs"]["spaces"][PORT_NET]["attached"].update({"mgmt0 egress": 1})),
    ("programs", lambda parts: parts["programs"]["spaces"]["host"]["disciplines"].append(["link0", "clsact"])),
    ("sockets", lambda p: p["files"]["spaces"][PORT_NET].update(unix=f"{UNIX}0: 2 0 00010000 0001 01 9 @hidden\n")),
    ("sockets", lambda p: p["files"]["spaces"]["host"].update(unix=f"{UNIX}0: 2 0 0 0002 01 9 /run/x\n")),
    ("sockets", lambda p: p["files"]["owners"].update({"/run/sallyport/port/status.sock": [0o140666, 902, 0]})),
    ("writable", lambda parts: parts["files"]["writable"].append(["/run/x", 0o100666, 0])),
    ("writable", lambda parts: parts["files"]["writable"].append(["/data/x", 0o40777, 0])),
)


def test_each_deviation_is_named() -> None:
    declared = clean()
    for number, (name, deviate) in enumerate(DEVIATIONS):
        parts = copy.deepcopy(declared)
        deviate(parts)
        assert judged(parts)[name].verdict is Verdict.HOLE, (number, name)


def _drop(pid: int) -> Deviation:
    def change(parts: Parts) -> None:
        parts["processes"]["processes"].remove(_of(parts, pid))

    return change


BLIND: tuple[tuple[str, Deviation], ...] = (
    ("processes", _drop(300)),
    ("vm", _drop(302)),
    ("terminals", lambda parts: parts["processes"].update(self=0, processes=parts["processes"]["processes"][:7])),
    ("root", lambda parts: parts["kernel"].update(tables=[1, "no"])),
    ("mounts", lambda parts: parts["kernel"].update(mounts="")),
    ("mounts", lambda parts: parts["kernel"].update(mounts="nonsense")),
    ("settings", lambda parts: parts["kernel"]["settings"].pop("kernel/modules_disabled")),
    ("settings", lambda parts: parts["network"][PORT_NET].update(settings={}, error="setns")),
    ("interfaces", lambda parts: parts["network"].pop(PORT_NET)),
    ("interfaces", lambda parts: parts["network"][PORT_NET].update(links=[1, "cannot"])),
    ("routes", lambda parts: parts["network"]["host"].update(routes=[0, "["])),
    ("routes", lambda parts: parts["network"]["host"].update(policies=[1, "no ip"])),
    ("rules", lambda parts: parts["reference"]["mgmt"].update(failed=["no such device"])),
    ("rules", lambda parts: parts["network"]["host"].update(rules=[1, "no nft"])),
    ("rules", lambda parts: parts["network"].pop(PORT_NET)),
    ("programs", lambda parts: parts["programs"].update(end=1)),
    ("programs", lambda parts: parts["programs"]["spaces"][PORT_NET]["attached"].update({"mgmt0 ingress": -1})),
    ("programs", lambda parts: parts["programs"]["loaded"].pop(0)),
    ("sockets", lambda parts: parts["files"]["spaces"]["host"].update(unix="")),
    ("sockets", lambda parts: parts["files"]["owners"].pop("/run/systemd/notify")),
    ("writable", lambda parts: parts["files"]["planted"].pop()),
)


def test_a_word_of_another_architecture_is_a_hole() -> None:
    parts = clean()
    words = _of(parts, 302)["words"]
    words[words.index("-cpu") + 1] = "host,pmu=off"  # right on aarch64; here it leaves virtualization on
    assert judged(parts)["vm"].verdict is Verdict.HOLE


def test_a_kernel_without_a_feature_lacks_its_settings() -> None:
    parts = clean()
    for key in declaration.UNBUILT:
        parts["kernel"]["settings"].pop(key, None)
    parts["kernel"]["settings"]["vm/overcommit_memory"] = "0"  # the directory was read
    for space in parts["network"].values():
        space["policies"] = [2, "RTNETLINK answers: Operation not supported\nDump terminated\n"]
    found = judged(parts)
    assert {found[name].verdict for name in ("settings", "routes")} == {Verdict.SEALED}
    for key in [key for key in parts["kernel"]["settings"] if key.startswith("vm/")]:
        del parts["kernel"]["settings"][key]
    assert judged(parts)["settings"].verdict is Verdict.NOT_TESTED


def test_what_cannot_be_seen_is_not_sealed() -> None:
    declared = clean()
    for number, (name, deviate) in enumerate(BLIND):
        parts = copy.deepcopy(declared)
        deviate(parts)
        verdict = judged(parts)[name].verdict
        # The file whose plant was forgotten is a stranger's file.
        assert verdict is (Verdict.HOLE if name == "writable" else Verdict.NOT_TESTED), (number, name, verdict)


@pytest.mark.parametrize("answer", [{}, [], None, {"processes": "x", "self": "y"}, {"host": {"path": 7}}])
def test_hostile_answers_are_never_sealed(answer: Any) -> None:
    results = run_system(lambda command: (0, framed(answer)))
    assert {result.verdict for result in results} <= {Verdict.NOT_TESTED, Verdict.HOLE}


def test_a_failing_script_is_asked_again() -> None:
    tries: list[str] = []

    def run(command: str) -> tuple[int, str]:
        tries.append(command)
        return 1, "no"

    results = run_system(run)
    assert {result.verdict for result in results} == {Verdict.NOT_TESTED}
    assert len(tries) == 6 * HOST_TRIES


@pytest.mark.parametrize("part", PARTS)
def test_each_part_fits_a_line(part: str) -> None:
    assert len(script(part).command()) < MAX_LINE


def test_the_script_tells_of_this_machine() -> None:
    """The part about processes runs anywhere; what it tells of this very process is true."""
    words = shlex.split(script("processes").command())
    done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, timeout=60, check=True)
    answer = script("processes").decode(done.stdout)
    mine = next(process for process in answer.processes if process.pid == answer.me)
    assert "-I" in mine.words
    assert mine.status["Uid"].split()[0] == str(os.getuid())
    assert mine.threads


def test_rules_without_what_changes() -> None:
    counted = {
        "rule": {"table": "t", "expr": [{"counter": {"packets": 1, "bytes": 2}}, {"limit": {"rate": 5}}], "handle": 3}
    }
    assert _normal(counted) == {"rule": {"table": "t", "expr": [{"counter": {}}, {"limit": {"rate": 5}}]}}
    foreign = {"set": {"table": "port", "name": "vm", "elem": ["02:5a:11:00:00:01", "de:ad:be:ef:00:01"]}}
    assert "elem" in _normal(foreign)["set"]

"""Reads what runs on the host, part by part; it judges nothing. See `proof.remote_script`.

Needs root, the standard library, ip(8), nft(8) and dmsetup(8). Each part is a function ``part_*``, and is sent alone,
so that it fits in one line of a terminal.
"""

import ctypes
import glob
import os
import socket
import struct
import subprocess
from typing import Any

from proof.host.namespaces_script import NEWNET, child, each, libc, link, text

ETC = "/etc/sallyport/"


def run(*words: str) -> list[Any]:
    """Run a program; returns its status and what it printed: of one that failed, its complaint."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
    first, second = (done.stderr, done.stdout) if done.returncode else (done.stdout, done.stderr)
    return [done.returncode, (first or second).decode(errors="replace")]


def settings(*tops: str) -> dict[str, str]:
    """Return every setting below directories of /proc/sys."""
    found = {}
    for top in tops:
        for path, _, files in os.walk("/proc/sys/" + top):
            for name in files:
                found[f"{path[10:]}/{name}"] = text(f"{path}/{name}", 200).strip()
    return found


def part_kernel() -> Any:
    """Return mounts, the verified device, settings of the kernel, modules."""
    return {
        "mounts": text("/proc/1/mountinfo"),
        "line": text("/proc/cmdline"),
        "tables": run("dmsetup", "table"),
        "states": run("dmsetup", "status"),
        "readonly": {path.split("/")[3]: text(path).strip() for path in glob.glob("/sys/block/dm-*/ro")},
        "settings": {
            **settings("kernel", "vm", "fs", "user"),
            "cpu/smt": text("/sys/devices/system/cpu/smt/active").strip(),
        },
        "inet6": os.path.exists("/proc/net/if_inet6"),
    }


def part_processes() -> Any:
    """Return every process with its rights."""
    found: list[Any] = []
    for path in glob.glob("/proc/[0-9]*"):
        status = text(path + "/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        rest = text(path + "/stat").rpartition(") ")[2].split()
        threads = set()
        for task in glob.glob(path + "/task/*/status"):
            lines = dict(line.split(":\t", 1) for line in text(task).splitlines() if ":\t" in line)
            threads.add(" ".join(lines.get(k, "?") for k in ("Uid", "CapEff", "CapPrm", "NoNewPrivs", "Seccomp")))
        files = []
        for file in glob.glob(path + "/fd/*"):
            flags = text(file.replace("/fd/", "/fdinfo/")).partition("flags:")[2].split()
            files.append([link(file), int(flags[0], 8) & 3 if flags else 3])
        if len(rest) > 6:
            found.append(
                {
                    "pid": int(path[6:]),
                    "parent": int(rest[1]),
                    "terminal": int(rest[4]),
                    "flags": int(rest[6]),
                    "exe": link(path + "/exe"),
                    "words": text(path + "/cmdline", 16384).split("\0")[:-1],
                    "status": {
                        key: fields.get(key, "")
                        for key in "Uid Gid Groups CapEff CapPrm CapInh CapBnd CapAmb NoNewPrivs Seccomp".split()  # noqa: SIM905
                    },
                    "threads": sorted(threads),
                    "files": [file for file in files if file[0]],
                    "net": link(path + "/ns/net"),
                    "group": text(path + "/cgroup").strip(),
                }
            )
    return {"self": os.getpid(), "processes": found}


def part_network() -> Any:
    """Return interfaces, addresses, routes, neighbours, settings and packet rules of each namespace."""

    def read() -> Any:
        ip = {
            name: run("ip", "-j", *words.split())
            for name, words in {
                "links": "-d address",
                "routes": "route show table all",
                "policies": "rule",
                "proxies": "neigh show proxy",
                "neighbours": "neigh show nud permanent",
            }.items()
        }
        return {
            **ip,
            "rules": run("nft", "-j", "list", "ruleset"),
            "settings": settings("net/ipv4", "net/ipv6", "net/core"),
        }

    return each(read)


def part_reference() -> Any:
    """Return the image's own packet rules, loaded in empty namespaces beside taps of the right names."""

    def load(names: str, files: str) -> Any:
        if libc.unshare(NEWNET):
            raise OSError("unshare")
        done = [run("ip", "tuntap", "add", name, "mode", "tap") for name in names.split()]
        done += [run("nft", "-f", f"{ETC}{name}.nft") for name in files.split()]
        return {"failed": [said for status, said in done if status], "rules": run("nft", "-j", "list", "ruleset")}

    return {
        "host": child(lambda: load("link0", "host link")),
        "mgmt": child(lambda: load("mgmt0 access0", "port")),
    }


BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
"""bpf(2), which the C library has no function for."""


def part_programs() -> Any:
    """Return BPF programs of the whole host; queueing disciplines and attached programs of each namespace."""

    def bpf(command: int, *attributes: int | bytes) -> tuple[int, bytes]:
        data = ctypes.create_string_buffer(
            b"".join(a if isinstance(a, bytes) else struct.pack("I", a) for a in attributes), 160
        )
        return libc.syscall(BPF, command, data, 160), data.raw

    loaded: list[Any] = []
    last = 0
    while True:
        status, data = bpf(11, last)  # BPF_PROG_GET_NEXT_ID
        if status:
            break
        last = struct.unpack_from("I", data, 4)[0]
        fd, _ = bpf(13, last)  # BPF_PROG_GET_FD_BY_ID
        info = ctypes.create_string_buffer(232)
        # BPF_OBJ_GET_INFO_BY_FD: struct bpf_prog_info has type, id, tag, ..., created_by_uid at 48, name at 64
        bpf(15, fd, 232, struct.pack("Q", ctypes.addressof(info)))
        loaded.append(
            [
                struct.unpack_from("I", info)[0],
                struct.unpack_from("I", info, 48)[0],
                info.raw[64:80].rstrip(b"\0").decode(errors="replace"),
            ]
        )
        os.close(fd)

    def read() -> Any:
        names = dict(socket.if_nameindex())
        kinds = []
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
            netlink.settimeout(10)
            # rtnetlink(7): RTM_GETQDISC with NLM_F_REQUEST | NLM_F_DUMP, then struct tcmsg
            netlink.send(struct.pack("IHHII20x", 36, 38, 0x301, 1, 0))
            going = True
            while going:
                data = netlink.recv(65536)
                while len(data) >= 16:
                    length, kind = struct.unpack_from("IH", data)
                    if kind in (2, 3) or length < 16:  # NLMSG_ERROR, NLMSG_DONE
                        going = False
                        break
                    # The first attribute is TCA_KIND.
                    size = struct.unpack_from("H", data, 36)[0]
                    index = struct.unpack_from("i", data, 20)[0]
                    kinds.append(
                        [names.get(index, str(index)), data[40 : 36 + size].rstrip(b"\0").decode(errors="replace")]
                    )
                    data = data[(length + 3) & ~3 :]
        attached = {}
        for index, name in names.items():
            for kind, point in (("ingress", 46), ("egress", 47)):  # BPF_TCX_INGRESS, BPF_TCX_EGRESS
                status, data = bpf(16, index, point)  # BPF_PROG_QUERY
                attached[f"{name} {kind}"] = status or struct.unpack_from("I", data, 24)[0]
        return {"disciplines": kinds, "attached": attached}

    return {"loaded": loaded, "end": ctypes.get_errno(), "spaces": each(read)}


def part_files() -> Any:
    """Return unix sockets of each namespace, and what everybody may write; a file is planted in each such place."""

    def read() -> Any:
        return {"unix": text("/proc/thread-self/net/unix")}

    spaces = each(read)
    owners = {}
    for space in spaces.values():
        for line in space.get("unix", "").splitlines()[1:]:
            path = line.split(None, 7)[-1]
            if path[0] == "/" and os.path.exists(path):
                at = os.stat(path)
                owners[path] = [at.st_mode, at.st_uid, at.st_gid]
    planted: list[str] = []
    found: list[Any] = []
    for top in ("/run", "/data", "/tmp", "/dev", "/var/tmp", "/root"):
        mine = f"{top}/sallyport-probe-{os.getpid()}"
        try:
            os.close(os.open(mine, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            os.chmod(mine, 0o666)  # noqa: S103 - to be found
            planted.append(mine)
        except OSError:
            continue  # read-only
        for path, folders, files in os.walk(top):
            for name in folders + files:
                full = f"{path}/{name}"
                try:
                    at = os.lstat(full)
                except OSError:
                    continue  # gone
                # Not links; not sockets, which the table above has.
                if at.st_mode & 2 and at.st_mode >> 12 not in (10, 12) and len(found) < 4000:
                    found.append([full, at.st_mode, at.st_uid])
        os.unlink(mine)
    return {"spaces": spaces, "owners": owners, "planted": planted, "writable": found}

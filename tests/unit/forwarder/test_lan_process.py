"""The guest LAN's file, and its process between two kernels' stacks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.forwarder.errors import ConfigError, ForwarderError
from backend.lan import main
from tests.unit.forwarder.rig import inside, ip, needs_root

WAIT_S = 10.0
A_MAC, B_MAC = "02:00:00:00:0a:01", "02:00:00:00:0b:01"


def document() -> dict[str, Any]:
    """A LAN of two taps."""
    return {
        "ports": [
            {"name": "a", "kind": "tap", "interface": "lana", "mac": A_MAC, "addresses": ["10.7.0.1", "fd07::1"]},
            {"name": "b", "kind": "tap", "interface": "lanb", "mac": B_MAC, "addresses": ["10.7.0.2", "fd07::2"]},
        ]
    }


def written(path: Path, value: object) -> Path:
    """As a file."""
    path.write_text(json.dumps(value))
    return path


def test_table_of_a_file(tmp_path: Path) -> None:
    value = document()
    value["ports"][1]["addresses"] = ["10.7.0.2"]
    config = main.read(written(tmp_path / "lan.json", value))
    a, b = bytes.fromhex(A_MAC.replace(":", "")), bytes.fromhex(B_MAC.replace(":", ""))
    assert main.entries(config) == [
        (b"\x0a\x07\0\x01", 0, a),
        (bytes.fromhex("fd070000000000000000000000000001"), 0, a),
        (bytes.fromhex("fe80000000000000000000fffe000a01"), 0, a),
        (b"\x0a\x07\0\x02", 1, b),
    ]


@pytest.mark.parametrize(
    ("port", "change", "named"),
    [
        (1, {"addresses": ["10.7.0.1"]}, r"ports\[1\].addresses\[0\]: 10.7.0.1 belongs to ports\[0\].addresses\[0\]"),
        (1, {"addresses": ["fd07:0::1"]}, r"ports\[1\].addresses\[0\]: fd07:0::1 belongs to ports\[0\].addresses\[1\]"),
        (0, {"addresses": ["10.7.0.9", "10.7.0.9"]}, r"ports\[0\].addresses\[1\]: 10.7.0.9 belongs to ports\[0\]"),
        (
            1,
            {"addresses": ["fe80::ff:fe00:a01"]},
            r"ports\[1\].addresses\[0\]: fe80.* belongs to ports\[0\].mac \(link",
        ),
        (1, {"name": "a"}, r"ports\[1\].name: a belongs to ports\[0\].name"),
        (1, {"mac": A_MAC}, r"ports\[1\].mac: .* belongs to ports\[0\].mac"),
        (1, {"interface": "lana"}, r"ports\[1\].interface: lana belongs to ports\[0\].interface"),
        (0, {"mac": "03:00:00:00:00:01"}, r"ports\[0\].mac: not the MAC address of one station"),
        (0, {"mac": "02:00:00:00:00"}, r"ports\[0\].mac: not a MAC"),
        (0, {"mac": "02:00:00:00:00:zz"}, r"ports\[0\].mac: "),
        (0, {"addresses": ["10.7.0"]}, r"ports\[0\].addresses\[0\]: '10.7.0' does not appear"),
        (0, {"addresses": ["224.0.0.1"]}, r"ports\[0\].addresses\[0\]: 224.0.0.1 cannot be"),
        (0, {"addresses": ["0.0.0.0"]}, r"ports\[0\].addresses\[0\]: 0.0.0.0 cannot be"),
        (0, {"addresses": ["255.255.255.255"]}, r"ports\[0\].addresses\[0\]: 255.255.255.255 cannot be"),
        (0, {"addresses": ["127.0.0.1"]}, r"ports\[0\].addresses\[0\]: 127.0.0.1 cannot be"),
        (0, {"addresses": ["ff02::1"]}, r"ports\[0\].addresses\[0\]: ff02::1 cannot be"),
        (0, {"addresses": ["::ffff:10.0.0.1"]}, r"ports\[0\].addresses\[0\]: ::ffff:10.0.0.1 cannot be"),
        (0, {"addresses": ["fe80::1%lana"]}, r"ports\[0\].addresses\[0\]: fe80::1%lana has a zone"),
        (0, {"addresses": []}, r"\$.ports\[0\].addresses"),
        (0, {"kind": "ring"}, r"\$.ports\[0\].kind"),
        (0, {"interface": "../lan"}, r"\$.ports\[0\].interface"),
        (0, {"adresses": []}, "unknown field `adresses` - at `\\$.ports\\[0\\]`"),
        (0, {"limit": {"rate": -1, "burst": 1}}, r"\$.ports\[0\].limit.rate"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, port: int, change: dict[str, object], named: str) -> None:
    value = document()
    assert len(main.read(written(tmp_path / "good.json", value)).ports) == 2
    value["ports"][port].update(change)
    with pytest.raises(ConfigError, match=named) as caught:
        main.read(written(tmp_path / "lan.json", value))
    assert str(tmp_path / "lan.json") in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.json.*No such file"):
        main.read(tmp_path / "absent.json")
    assert main.main([str(tmp_path / "absent.json")]) == 1


@needs_root
def test_a_tap_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    name = f"lan{secrets.token_hex(3)}"
    held = main.open_tap(name)
    try:
        with pytest.raises(ForwarderError, match=rf"tap {name}: .*EBUSY"):
            main.open_tap(name)
    finally:
        os.close(held)
    os.close(main.open_tap(name))


class Stacks:
    """A LAN's process, and two network namespaces with an end of it each."""

    def __init__(self, folder: Path) -> None:
        token = secrets.token_hex(3)
        self.names = {end: f"lan{token}{end}" for end in "ab"}
        self.file = written(folder / "lan.json", document())
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Both ends up, with their addresses."""
        for name in self.names.values():
            ip("netns", "add", name)
        command = [
            "ip",
            "netns",
            "exec",
            self.names["a"],
            sys.executable,
            "-m",
            "backend.lan.main",
            str(self.file),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert "2 ports" in self.said("stderr")
        ip("-n", self.names["a"], "link", "set", "lanb", "netns", self.names["b"])
        for end, mac, number in (("a", A_MAC, 1), ("b", B_MAC, 2)):
            name, interface = self.names[end], f"lan{end}"
            ip("-n", name, "link", "set", interface, "address", mac, "up")
            ip("-n", name, "addr", "add", f"10.7.0.{number}/24", "dev", interface)
            ip("-n", name, "addr", "add", f"fd07::{number}/64", "dev", interface, "nodad")

    def said(self, stream: str) -> str:
        """One line of the process, in time."""
        assert self.process is not None
        pipe = getattr(self.process, stream)
        assert select.select([pipe], [], [], WAIT_S)[0], "the process says nothing"
        return str(pipe.readline())

    def counters(self) -> dict[str, dict[str, dict[str, int]]]:
        """As the process tells them."""
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR1)
        told: dict[str, dict[str, dict[str, int]]] = json.loads(self.said("stdout"))["counters"]
        return told

    def stop(self) -> None:
        """Leave nothing behind."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(WAIT_S)
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20, check=False)


@pytest.fixture
def stacks(tmp_path: Path) -> Iterator[Stacks]:
    """Two stacks with a LAN between them."""
    both = Stacks(tmp_path)
    try:
        both.start()
        yield both
    finally:
        both.stop()


def transfer(stacks: Stacks, address: str, size: int) -> float:
    """A TCP connection from a to b; returns bytes per second."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(stacks.names["b"]):
        listener = socket.create_server((address, 5001), family=family)
    with inside(stacks.names["a"]):
        sender = socket.socket(family, socket.SOCK_STREAM)
    data, digest = os.urandom(1 << 20), hashlib.sha256()
    with listener, sender:
        listener.settimeout(WAIT_S)
        sender.settimeout(WAIT_S)
        start = time.monotonic()
        sender.connect((address, 5001))
        receiver, _ = listener.accept()

        def send() -> None:
            for _ in range(size // len(data)):
                sender.sendall(data)
            sender.close()

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        with receiver:
            receiver.settimeout(WAIT_S)
            while piece := receiver.recv(1 << 18):
                digest.update(piece)
        thread.join(WAIT_S)
    assert digest.digest() == hashlib.sha256(data * (size // len(data))).digest()
    return size / (time.monotonic() - start)


@needs_root
def test_two_stacks_resolve_and_talk(stacks: Stacks) -> None:
    """ARP, neighbour discovery and TCP of two real stacks, through the process with its system-call filter on."""
    for address in ("10.7.0.2", "fd07::2"):
        transfer(stacks, address, 8 << 20)
    counters = stacks.counters()
    assert all(counters[end]["passed"]["frames"] > 100 for end in "ab")
    # "destination": what stacks send to groups by themselves.
    assert not (counters["a"].keys() | counters["b"].keys()) - {"passed", "destination", "no_buffer"}


def reaches(stacks: Stacks, source: str, wait_s: float) -> bool:
    """Does a datagram from this address of a get to b?"""
    with inside(stacks.names["b"]):
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with inside(stacks.names["a"]):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with listener, sender:
        listener.bind(("10.7.0.2", 0))
        sender.bind((source, 0))
        deadline = time.monotonic() + wait_s
        listener.settimeout(0.02)
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                sender.sendto(b"?", listener.getsockname())
            with contextlib.suppress(TimeoutError):
                return bool(listener.recvfrom(10)[1][0] == source)
    return False


@needs_root
def test_a_new_table_is_read_while_it_runs_and_a_wrong_one_is_not_taken(stacks: Stacks) -> None:
    assert stacks.process is not None
    ip("-n", stacks.names["a"], "addr", "add", "10.7.0.77/24", "dev", "lana")
    assert reaches(stacks, "10.7.0.1", WAIT_S)
    assert not reaches(stacks, "10.7.0.77", 0.2)
    value = document()
    value["ports"][0]["addresses"].append("10.7.0.77")
    written(stacks.file, value)
    stacks.process.send_signal(signal.SIGHUP)
    assert reaches(stacks, "10.7.0.77", WAIT_S)
    for wrong, sentence in (
        ({"ports": value["ports"][:1]}, "only addresses and MAC addresses can change"),
        ({"ports": []}, "the old one stays in use"),
    ):
        written(stacks.file, wrong)
        stacks.process.send_signal(signal.SIGHUP)
        assert sentence in stacks.said("stderr")
        assert reaches(stacks, "10.7.0.77", WAIT_S)


@needs_root
def test_it_ends_when_told_and_leaves_no_interface(stacks: Stacks) -> None:
    assert stacks.process is not None
    stacks.process.terminate()
    assert stacks.process.wait(WAIT_S) == 0
    for end in "ab":
        with pytest.raises(subprocess.CalledProcessError):
            ip("-n", stacks.names[end], "link", "show", f"lan{end}")
        ip("-n", stacks.names[end], "link", "show", "lo")

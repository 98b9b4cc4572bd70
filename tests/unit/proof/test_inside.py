"""The probes over the link, and the listing of the host's sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from proof.host.listeners import BACKEND, SCRIPT, Listener, expected, listeners, run_host
from proof.inside.link import run_inside
from proof.remote_answer import framed
from proof.result import EXIT_SEALED, Result, Verdict, exit_code
from proof.wire.frame import Frame
from proof.wire.target import LinkTarget, mac_bytes
from rootfs.spec.profile import Forwarder
from tests.unit.proof.simpeer import HOST_MAC, Peer, Stack, arp_reply, wired

TARGET = LinkTarget(host_macs={"mgmt0": "52:54:00:00:00:02"}, other_ipv4=("192.168.42.1",))
VM_MAC = "02:53:4c:00:00:11"
ADDRESS = socket.inet_aton(TARGET.host_ipv4)


class FirewalledHost(Stack):
    """A host that takes the backend's port from the VM's own MAC and address, and drops all else."""

    def answer(self, frame: Frame) -> bytes | None:
        asked_by_vm = frame.src == mac_bytes(VM_MAC) and frame.ip_src == socket.inet_aton(TARGET.vm_ipv4)
        wanted = frame.arp_op == 1 or frame.dport in self.open | self.answers_udp
        return super().answer(frame) if asked_by_vm and wanted and not frame.tags else None


def inside(peer: Peer) -> dict[str, Result]:
    with wired(peer) as wire:
        results = run_inside(wire, TARGET, vm_mac=VM_MAC, seed=1, tcp_ports=range(6500, 7100), udp_ports=range(500))
    return {result.name: result for result in results}


def test_a_sealed_host_is_sealed() -> None:
    results = inside(Peer([FirewalledHost(mac_bytes(HOST_MAC), {ADDRESS}, {7000}, drop_closed=True)]))
    assert exit_code(results.values()) == EXIT_SEALED, [r for r in results.values() if r.verdict != Verdict.SEALED]
    assert "599 silent" in results["tcp-all-ports"].evidence


def test_each_further_answer_over_the_link_is_a_hole() -> None:
    open_host = Stack(mac_bytes(HOST_MAC), {ADDRESS}, {7000, 7022}, drop_closed=True, answers_udp={161}, any_mac=True)
    open_host.addresses |= {socket.inet_aton("192.168.42.1"), socket.inet_pton(socket.AF_INET6, "fe80::5054:ff:fe00:1")}
    results = inside(Peer([open_host]))
    holes = {name for name, result in results.items() if result.verdict is Verdict.HOLE}
    assert holes == {"tcp-all-ports", "udp-all-ports", "icmp", "arp", "ipv6", "elsewhere", "spoofed"}
    assert "unexpected open: 7022" in results["tcp-all-ports"].evidence


def test_a_foreign_frame_on_the_link_is_a_hole() -> None:
    host = FirewalledHost(mac_bytes(HOST_MAC), {ADDRESS}, {7000}, drop_closed=True)
    foreign = mac_bytes("52:54:00:00:00:02")
    peer = Peer([host], extra=lambda frame: [arp_reply(frame, foreign)] if frame.kind == 0x88CC else [])
    assert inside(peer)["ethertypes"].verdict is Verdict.HOLE


def test_an_answer_to_a_false_mac_that_finds_the_vm_is_a_hole() -> None:
    class Cached(FirewalledHost):
        """Does not look at the sender's MAC, and answers to the one in its neighbour table, as a kernel does."""

        def answer(self, frame: Frame) -> bytes | None:
            frame.src = mac_bytes(VM_MAC)
            return super().answer(frame)

    results = inside(Peer([Cached(mac_bytes(HOST_MAC), {ADDRESS}, {7000}, drop_closed=True)]))
    assert {name for name, result in results.items() if result.verdict is Verdict.HOLE} == {"spoofed"}


def test_a_silent_link_is_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.inside.link.ARP_TIMEOUT", 0.3)
    assert {result.verdict for result in inside(Peer([])).values()} == {Verdict.NOT_TESTED}


TCP = "   0: 01FEFEA9:1B58 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0"
TCP_OTHER = TCP.replace("01FEFEA9:1B58", "00000000:0016")
TCP_CONNECTED = TCP.replace(" 0A ", " 01 ").replace("1B58", "9999")
UDP6 = "  1: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 0:0 0:0 0 0 0 5 2 0 0"
PACKET = "ffff8880 3      3    0003   2     1 0      902    12345"
EMPTY: dict[str, list[str]] = {"tcp": [], "udp": [], "raw": []}


def shell(
    files: dict[str, list[str]], damage: Callable[[str], str] = lambda text: text, error: str = ""
) -> Callable[[str], tuple[int, str]]:
    spaces = {
        "host": {"path": "/proc/1/ns/net", "tables": EMPTY},
        "net:[2]": {"path": "/x", "error": error, "tables": {**EMPTY, **files}},
    }
    line = framed(spaces)
    return lambda argv: (0, f"echo of {argv[:20]}\r\n{damage(line)}\r\n# ")


def test_only_the_backend_listens() -> None:
    (result,) = run_host(shell({"tcp": [TCP, TCP_CONNECTED]}))
    assert result.verdict is Verdict.SEALED
    assert "tcp 169.254.254.1:7000" in result.control


@pytest.mark.parametrize(
    ("file", "line", "name"),
    [
        ("tcp", TCP_OTHER, "tcp 0.0.0.0:22"),
        ("udp6", UDP6, "udp6 ::1:53"),
        ("packet", PACKET, "packet interface 2 of user 902:3"),
        ("raw", TCP_OTHER.replace("0016", "0001").replace(" 0A ", " 07 "), "raw 0.0.0.0:1"),
    ],
)
def test_any_other_listener_is_a_hole(file: str, line: str, name: str) -> None:
    (result,) = run_host(shell({"tcp": [TCP], file: [line] if file != "tcp" else [TCP, line]}))
    assert result.verdict is Verdict.HOLE
    assert name in result.evidence


def test_the_forwarders_rings_are_its_way_s_and_nobody_else_s() -> None:
    ring, sender = PACKET, PACKET.replace(" 0003 ", " 0000 ").replace(" 2     1 ", " 2     0 ")
    assert sender != ring
    for way, lines, verdict in (
        (Forwarder(), [ring, sender, sender], Verdict.SEALED),
        (Forwarder(), [], Verdict.NOT_TESTED),  # the control: the ring is not seen
        (Forwarder(), [ring, ring.replace(" 2     1 ", " 3     1 ")], Verdict.HOLE),
        (Forwarder(), [ring, ring.replace(" 902 ", " 0 ")], Verdict.HOLE),
        (Forwarder(vm="tap"), [ring, ring.replace(" 2     1 ", " 3     1 ")], Verdict.SEALED),
        (Forwarder(port="kernel", vm="tap"), [ring], Verdict.HOLE),
    ):
        (result,) = run_host(shell({"tcp": [TCP], "packet": lines}), allowed=expected(way))
        assert result.verdict is verdict, (way, lines, result.evidence)


@pytest.mark.parametrize(
    "run",
    [
        shell({}),  # the backend itself is not seen
        shell({"tcp": [TCP]}, error="EPERM"),
        shell({"tcp": [TCP, "nonsense 1 2 3"]}),
        shell({"tcp": [TCP]}, lambda text: text.replace("A", "B")),
        shell({"tcp": [TCP]}, lambda text: text[:60]),
        lambda argv: (127, "python3: not found"),
    ],
)
def test_a_listing_that_cannot_be_trusted_is_not_tested(run: Callable[[str], tuple[int, str]]) -> None:
    assert run_host(run)[0].verdict is Verdict.NOT_TESTED


def test_the_collector_fits_on_a_terminal_line_and_runs(capfd: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys

    argv = SCRIPT.command()
    assert len(argv) < 4000
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        done = subprocess.run(
            ["sh", "-c", argv.replace("python3", sys.executable, 1)], capture_output=True, text=True, check=False
        )
        (result,) = run_host(
            lambda _: (done.returncode, done.stdout), allowed=frozenset({Listener("tcp", "127.0.0.1", port)})
        )
    assert f"1 of 1 expected listeners seen: tcp 127.0.0.1:{port}" in result.control, done.stderr
    assert BACKEND.port == 7000
    assert list(listeners("tcp", [TCP], "")) == [BACKEND]

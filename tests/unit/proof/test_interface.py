"""The wire over a network interface and the run against a device behind it, on veth pairs in a namespace."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scapy.utils import PcapNgReader

import proof.device
from proof import identity
from proof.outside.catalogue import ProbeCatalogue
from proof.report.report import Report
from proof.result import EXIT_HOLE, EXIT_NOT_TESTED, EXIT_SEALED, Result, Verdict, exit_code
from proof.scan.frame_batch import FrameBatch
from proof.wire.craft import tagged
from proof.wire.frame import Frame
from proof.wire.interface import SOL_PACKET, CouldNotTest, Facts, PacketWire, preflight, with_tag
from proof.wire.target import Target, mac_bytes
from proof.wire.wire import Tap, WireError
from rootfs.base.errors import SallyportError
from rootfs.spec import profile as profiles
from tests.lab.simulated import PORT_MAC, Plug, appliance, planted, plugged, vm_mac
from tests.unit.forwarder.rig import inside, ip, needs_root, wait_for
from tests.unit.proof.simpeer import Stack, ether

pytestmark = needs_root

NEAR, FAR = "p0", "d0"
VM_MAC = vm_mac(PORT_MAC)
PROFILE = profiles.load("x86-64-uefi")
FEW = range(20, 450)
"""Ports of the sweeps; the expected ones are among them."""
FRAME = b"\x02" * 6 + b"\x04" * 6 + b"\x88\xb5" + bytes(range(46))
"""Of the EtherType for local experiments (IEEE 802)."""


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace with the tester's port and the device's port, joined; this thread is in it."""
    name = f"pi{secrets.token_hex(3)}"
    ip("netns", "add", name)
    try:
        quiet = ["ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]
        subprocess.run(quiet, check=True, timeout=20)
        ip("-n", name, "link", "add", NEAR, "type", "veth", "peer", "name", FAR)
        ip("-n", name, "link", "set", NEAR, "mtu", "9000", "up")
        ip("-n", name, "link", "set", FAR, "mtu", "9000", "up")
        with inside(name):
            yield name
    finally:
        ip("netns", "del", name)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "LISTEN_AFTER_ANSWER", 0.4)
    monkeypatch.setattr(proof.device, "QUIET", 0.6)
    monkeypatch.setattr(identity, "ASK_EVERY", 0.1)
    monkeypatch.setattr(proof.device, "ASK_EVERY", 0.1)
    monkeypatch.setattr(proof.device, "ANSWER_TIMEOUT", 1.0)
    monkeypatch.setattr("proof.outside.early.INTERVAL", 0.01)
    monkeypatch.setattr("proof.outside.early.LAST_INTERVAL", 0.02)


def received(tap: Tap, count: int) -> list[bytes]:
    """The next ``count`` frames, or fewer after a second."""
    frames: list[bytes] = []
    deadline = time.monotonic() + 1
    while len(frames) < count and time.monotonic() < deadline:
        frames += [frame.raw for frame in tap.take(0.1)]
    return frames


@pytest.fixture
def two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all that there are: the run as a whole is the matter."""
    every = ProbeCatalogue.batches

    def some(self: ProbeCatalogue, *options: Any) -> Iterator[FrameBatch]:
        return (batch for batch in every(self, *options) if batch.name in ("arp-elsewhere", "ping"))

    monkeypatch.setattr(ProbeCatalogue, "batches", some)


def look(name: str) -> dict[str, Any]:
    text = subprocess.run(["ip", "-json", "-details", "link", "show", "dev", name], capture_output=True, check=True)
    found: dict[str, Any] = json.loads(text.stdout)[0]
    return found


# The interface, before anything is sent.


def test_a_usable_interface_is_described(namespace: str) -> None:
    assert preflight(NEAR) == Facts(NEAR, look(NEAR)["address"], 9000)


def test_no_such_interface_names_the_others(namespace: str) -> None:
    with pytest.raises(CouldNotTest, match="no network interface 'p9'") as caught:
        preflight("p9")
    assert FAR in caught.value.hint
    assert caught.value.exit_code == EXIT_NOT_TESTED


@pytest.mark.parametrize(
    ("commands", "interface", "match"),
    [
        ("link set d0 down", NEAR, "up but has no carrier"),
        ("link set p0 down", NEAR, "p0 is not up"),
        ("link set lo up", "lo", "is the loopback"),
        ("link add br7 type bridge;link set p0 master br7", NEAR, "belongs to br7"),
        ("link add br7 type bridge;link set br7 up", "br7", "no Ethernet port but a bridge"),
        ("link add v9 link p0 type macvlan", NEAR, "v9 of this machine use p0"),
        ("addr add 192.0.2.1/24 dev p0", NEAR, "192.0.2.1/24.*own kernel would answer"),
        ("addr add 169.254.7.7/16 dev p0", NEAR, "169.254.7.7/16.*own kernel would answer"),
        ("addr add 192.0.2.1/32 dev lo;route add default dev p0", NEAR, "default route"),
        ("route add default table 7 nexthop dev p0 nexthop dev d0", NEAR, "default route"),
    ],
)
def test_what_would_hit_the_wrong_network_is_refused(namespace: str, commands: str, interface: str, match: str) -> None:
    for command in commands.split(";"):
        ip(*command.split())
    with pytest.raises(CouldNotTest, match=match) as caught:
        preflight(interface)
    assert caught.value.hint


def test_a_carrier_may_be_waited_for(namespace: str) -> None:
    ip("link", "set", FAR, "down")
    later = threading.Timer(0.5, ip, ("-n", namespace, "link", "set", FAR, "up"))
    later.start()
    with pytest.raises(CouldNotTest, match="no carrier"):
        preflight(NEAR, 0.1)
    assert preflight(NEAR, 5.0).name == NEAR
    later.join(5)


def test_a_kernel_that_speaks_ipv6_there_is_a_warning_and_so_is_a_small_mtu(namespace: str) -> None:
    enable = ["ip", "netns", "exec", namespace, "sysctl", "-qw", f"net.ipv6.conf.{NEAR}.disable_ipv6=0"]
    subprocess.run(enable, check=True, timeout=20)
    ip("link", "set", NEAR, "mtu", "1400")
    (speaks, small) = preflight(NEAR).warnings
    assert "fe80::" in speaks
    assert "disable_ipv6=1" in speaks
    assert "MTU of p0 is 1400" in small


def test_an_unprivileged_user_is_told_so(namespace: str) -> None:
    code = f"from proof.wire.interface import preflight; preflight({NEAR!r})"
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
    # Through the interpreter's own path: an unprivileged user cannot follow a link into somebody's home.
    done = subprocess.run(
        [*drop, sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert "CouldNotTest: raw frames on p0 need the capability CAP_NET_RAW" in done.stderr


# The wire.


def test_frames_pass_and_are_recorded(namespace: str, tmp_path: Path) -> None:
    with PacketWire(NEAR, pcap=tmp_path / "a.pcapng") as near, PacketWire(FAR) as far:
        with near.tap() as here, far.tap() as there:
            near.send_many([FRAME, FRAME[:20]])
            far.send(FRAME[::-1])
            assert received(there, 2) == [FRAME, FRAME[:20]]
            assert received(here, 2) == [FRAME[::-1]]  # and not what it sent itself
        assert (near.sent, near.lost, near.gaps()) == (2, 0, "")
    recorded = sorted(bytes(packet) for packet in PcapNgReader(str(tmp_path / "a.pcapng")))
    assert recorded == sorted([FRAME, FRAME[:20], FRAME[::-1]])


@pytest.mark.parametrize(
    "frame",
    [tagged(FRAME, 5), tagged(FRAME, 0), tagged(FRAME, 4095, 0x88A8), tagged(tagged(FRAME, 7), 0xE005, 0x88A8)],
)
def test_tags_are_kept(namespace: str, frame: bytes) -> None:
    with PacketWire(NEAR) as near, PacketWire(FAR) as far, far.tap() as tap:
        near.send(frame)
        assert received(tap, 1) == [frame]


def test_the_ancillary_data_of_another_kernel_do_no_harm() -> None:
    stripped = struct.pack("=I12xHH", 1 << 4, 5, 0)  # tag valid, its EtherType not told
    assert with_tag(FRAME, [(SOL_PACKET, 8, stripped)]) == tagged(FRAME, 5)
    assert with_tag(FRAME, [(SOL_PACKET, 8, stripped[:12]), (1, 8, stripped), (SOL_PACKET, 8, bytes(20))]) == FRAME


def test_the_interface_is_afterwards_as_it_was(namespace: str) -> None:
    before = look(NEAR)
    with PacketWire(NEAR):
        assert look(NEAR)["promiscuity"] == 1
    assert look(NEAR) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "wire-read"]


def test_frames_that_were_dropped_are_an_error_and_not_silence(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.wire.interface.BUFFER", 4096)
    with PacketWire(NEAR) as near, PacketWire(FAR) as far, near.tap() as tap:
        deliver = near._deliver

        def slowly(raws: Sequence[bytes], now: float) -> None:
            time.sleep(0.01 * len(raws))
            deliver(raws, now)

        monkeypatch.setattr(near, "_deliver", slowly)
        far.send_many([FRAME] * 200)
        assert wait_for(lambda: near.lost)
        with pytest.raises(WireError, match="frames dropped"):
            tap.take(1)
        assert "could be read" in near.gaps()


def test_a_frame_that_is_too_long_is_an_error_and_the_wire_lives(namespace: str) -> None:
    with PacketWire(NEAR) as near, PacketWire(FAR) as far, far.tap() as tap:
        assert near.max_frame == 9014
        near.send(FRAME.ljust(near.max_frame, b"\0"))
        assert len(received(tap, 1)[0]) == 9014
        with pytest.raises(WireError, match="does not send a frame of 9015 bytes"):
            near.send(FRAME.ljust(9015, b"\0"))
        near.send_many([FRAME[:5], FRAME])
        assert received(tap, 2) == [FRAME[:5].ljust(14, b"\0"), FRAME]


def test_a_lost_carrier_is_an_error_and_comes_back(namespace: str) -> None:
    with PacketWire(NEAR) as near:
        assert near.writable()
        ip("link", "set", FAR, "down")
        assert not near.writable()
        with pytest.raises(WireError, match="p0 has no carrier"):
            near.send(FRAME)
        ip("link", "set", FAR, "up")
        near.send(FRAME)


def test_an_interface_that_goes_away_ends_the_wire(namespace: str) -> None:
    with PacketWire(NEAR) as near, near.tap() as tap:
        ip("link", "delete", NEAR)
        assert wait_for(lambda: near.error)
        with pytest.raises(WireError, match="p0"):
            tap.take(1)
    with pytest.raises(WireError, match="cannot open p0"):
        PacketWire(NEAR)


def test_a_full_queue_is_waited_for(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """A socket whose queue is full three times."""

        left, error = 3, errno.ENOBUFS

        def __init__(self, real: socket.socket) -> None:
            self.real = real
            self.close, self.fileno = real.close, real.fileno

        def send(self, frame: bytes) -> int:
            self.left -= 1
            if self.left >= 0:
                raise OSError(self.error, os.strerror(self.error))
            return self.real.send(frame)

    with PacketWire(NEAR) as near, PacketWire(FAR) as far, far.tap() as tap:
        monkeypatch.setattr(near, "_out", Full(near._out))
        near.send(FRAME)
        assert received(tap, 1) == [FRAME]
        monkeypatch.setattr("proof.wire.interface.SEND_TIMEOUT", 0.05)
        near._out.left = 10**6  # type: ignore[attr-defined]
        with pytest.raises(WireError, match="cannot send on p0: No buffer space"):
            near.send(FRAME)
    with PacketWire(NEAR) as near:
        monkeypatch.setattr("proof.wire.interface.SEND_TIMEOUT", 60.0)
        monkeypatch.setattr(near, "_out", Full(near._out))
        near._out.error = errno.ENETDOWN  # type: ignore[attr-defined]
        with pytest.raises(WireError, match="cannot send on p0: Network is down"):
            near.send(FRAME)


# The device behind it.


class Switch:
    """Power of the simulated device: without it its port is down. ``stuck``: it stays on."""

    def __init__(self, plug: Plug, stuck: bool = False) -> None:
        self.plug, self.stuck = plug, stuck

    def off(self) -> None:
        if not self.stuck:
            ip("link", "set", FAR, "down")

    def on(self) -> None:
        self.plug.boot(0.6)
        ip("link", "set", FAR, "up")


def attack(tmp_path: Path, mac: str = VM_MAC, power: proof.device.Power | None = None, **options: Any) -> Report:
    console = Console(file=io.StringIO())
    port_mac, ask = options.pop("port_mac", PORT_MAC), options.pop("ask", None)
    with proof.device.reach(PROFILE, NEAR, tmp_path, console, mac=mac, port_mac=port_mac, ask=ask) as device:
        return proof.device.attack(device, lambda *_: None, seed=1, power=power, ports=FEW, quick=True, **options)


def worst(results: list[Result]) -> list[Result]:
    return [result for result in results if result.verdict in (Verdict.HOLE, Verdict.NOT_TESTED)]


def named(report: Report, name: str) -> Result:
    return next(result for result in report.results if result.name == name)


def test_a_sealed_device_is_sealed_if_its_power_on_was_seen(namespace: str, tmp_path: Path) -> None:
    for name in (NEAR, FAR):
        ip("link", "set", name, "mtu", "65535")
    with plugged(FAR, appliance()) as plug:
        report = attack(tmp_path, power=Switch(plug))
    assert exit_code(report.results) == EXIT_SEALED, worst(report.results)
    assert "the wire was up before power-on" in named(report, "frames-since-power-on").control
    assert named(report, "frames-since-probes-began").verdict is Verdict.SEALED
    assert "as far as the card was in use" in named(report, "power-on").control
    assert "carrier lost" in report.facts["power-on"]
    assert report.facts["scope"].startswith("outside only")
    assert (tmp_path / "port.pcapng").stat().st_size > 100_000


@pytest.mark.usefixtures("two_batches")
def test_without_power_on_and_port_address_the_rest_is_still_sealed(namespace: str, tmp_path: Path) -> None:
    with plugged(FAR, appliance()):
        report = attack(tmp_path, port_mac="")
    assert {result.name for result in worst(report.results)} == {"frames-since-power-on", "burned-in-address"}
    assert "power-on was not observed" in named(report, "frames-since-power-on").evidence
    assert exit_code(report.results) == EXIT_NOT_TESTED


@pytest.mark.usefixtures("two_batches")
def test_a_planted_second_stack_is_a_hole(namespace: str, tmp_path: Path) -> None:
    with plugged(FAR, planted()):
        report = attack(tmp_path)
    holes = {result.name for result in report.results if result.verdict is Verdict.HOLE}
    assert {"arp-elsewhere", "ping", "frames-since-probes-began"} <= holes
    assert exit_code(report.results) == EXIT_HOLE
    assert PORT_MAC in named(report, "ping").evidence


@pytest.mark.usefixtures("two_batches")
def test_a_host_that_has_the_vms_address_is_a_hole_and_its_port_is_learned(namespace: str, tmp_path: Path) -> None:
    stacks = appliance()
    stacks.append(Stack(mac_bytes(PORT_MAC), {socket.inet_aton("192.168.42.1")}))
    with plugged(FAR, stacks):
        report = attack(tmp_path, port_mac="")
    assert "mgmt0" in named(report, "frames-since-probes-began").evidence
    assert PORT_MAC in report.facts["device"]


@pytest.mark.usefixtures("two_batches")
def test_an_early_frame_of_the_host_is_a_hole(namespace: str, tmp_path: Path) -> None:
    class Leaky(Switch):
        """Speaks before its VM does, as boot firmware might."""

        def on(self) -> None:
            super().on()
            self.plug.say(ether(b"\xff" * 6, mac_bytes(PORT_MAC), 0x88B5, bytes(46)))

    with plugged(FAR, appliance()) as plug:
        report = attack(tmp_path, power=Leaky(plug))
    assert [result.name for result in worst(report.results)] == ["power-on", "frames-since-power-on"]
    assert exit_code(report.results) == EXIT_HOLE


def test_a_device_that_does_not_come_back_is_not_tested(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof.device, "UP_TIMEOUT", 0.5)
    with plugged(FAR, appliance()) as plug:
        switch = Switch(plug)
        monkeypatch.setattr(switch, "on", lambda: None)
        report = attack(tmp_path, power=switch)
    assert exit_code(report.results) == EXIT_NOT_TESTED
    assert "no answer to ARP" in named(report, "device").evidence


def test_a_device_that_is_not_switched_off_stops_the_run(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof.device, "OFF_TIMEOUT", 1.0)
    with plugged(FAR, appliance()) as plug, pytest.raises(CouldNotTest, match="still sends frames"):
        attack(tmp_path, power=Switch(plug, stuck=True))


def test_frames_lost_in_the_record_unseal_it(namespace: str, tmp_path: Path) -> None:
    with plugged(FAR, appliance()):
        console = Console(file=io.StringIO())
        with proof.device.reach(PROFILE, NEAR, tmp_path, console, mac=VM_MAC, port_mac=PORT_MAC, ask=None) as device:
            assert proof.device.since_began(device.wire, device.frame_log, 1).verdict is Verdict.SEALED
            device.wire._lose(1)
            assert proof.device.since_began(device.wire, device.frame_log, 1).verdict is Verdict.NOT_TESTED
            device.wire.mark_power_on()
            assert proof.device.since_power_on(device.wire, device.target).verdict is Verdict.NOT_TESTED


# Whose device it is.


@contextlib.contextmanager
def refused(tmp_path: Path, match: str, kind: type[SallyportError] = CouldNotTest, **options: Any) -> Iterator[None]:
    """Whatever the context plugs in is refused, and nothing but ARP was sent."""
    yield
    with pytest.raises(kind, match=match) as caught:
        attack(tmp_path, **options)
    assert caught.value.hint
    capture = tmp_path / "port.pcapng"
    frames = [bytes(packet) for packet in PcapNgReader(str(capture))] if capture.exists() else []
    assert {frame[12:14] for frame in frames if frame[6:12] == mac_bytes(Target.tester_mac)} <= {b"\x08\x06"}


OTHER = "02:5a:11:aa:bb:cc"


def test_nobody_answers(namespace: str, tmp_path: Path) -> None:
    with plugged(FAR, []), refused(tmp_path, "nobody answered ARP for 192.168.42.1"):
        pass


def test_another_device_answers(namespace: str, tmp_path: Path) -> None:
    with plugged(FAR, appliance()), refused(tmp_path, f"{VM_MAC} answered.*not {OTHER}", mac=OTHER, port_mac=""):
        pass


def test_something_else_answers(namespace: str, tmp_path: Path) -> None:
    router = Stack(mac_bytes("00:11:22:33:44:55"), {socket.inet_aton("192.168.42.1")})
    with plugged(FAR, [router]), refused(tmp_path, "00:11:22:33:44:55 answered.*not one front-end VM", mac=""):
        pass
    with plugged(FAR, [*appliance(), router]), refused(tmp_path, "00:11:22:33:44:55 also send frames"):
        pass


def test_two_devices_answer(namespace: str, tmp_path: Path) -> None:
    both = [*appliance(), *appliance("52:54:00:00:00:02")]
    with plugged(FAR, both), refused(tmp_path, "answered.*not one front-end VM", mac="", port_mac=""):
        pass
    with plugged(FAR, both), refused(tmp_path, "02:5a:11:00:00:02 also send frames"):
        pass


def test_a_second_answer_that_comes_late_is_waited_for(namespace: str, tmp_path: Path) -> None:
    class Late(Stack):
        """Misses the first request."""

        asked = 0

        def answer(self, frame: Frame) -> bytes | None:
            self.asked += frame.arp_op == 1
            return super().answer(frame) if self.asked > 1 else None

    late = Late(mac_bytes("00:11:22:33:44:55"), {socket.inet_aton("192.168.42.1")})
    with plugged(FAR, [*appliance(), late]), refused(tmp_path, "00:11:22:33:44:55 also send frames"):
        pass


def test_somebody_else_is_on_the_wire(namespace: str, tmp_path: Path) -> None:
    class Switchboard(Stack):
        """A network switch that says so."""

        def answer(self, frame: Frame) -> bytes:
            return ether(bytes.fromhex("0180c200000e"), self.mac, 0x88CC, bytes(46))

    lldp = Switchboard(mac_bytes("00:11:22:33:44:55"), set())
    with plugged(FAR, [*appliance(), lldp]), refused(tmp_path, "00:11:22:33:44:55 also send frames"):
        pass


def test_the_port_must_be_the_vms(namespace: str, tmp_path: Path) -> None:
    other = "52:54:00:00:00:99"
    with plugged(FAR, appliance()), refused(tmp_path, "last three bytes differ", SallyportError, port_mac=other):
        pass


@pytest.mark.parametrize("mac", ["02:5a:11:00", "192.168.42.1", "52:54:00:00:00:01"])
def test_an_address_that_cannot_be_the_vms_is_wrong_use(namespace: str, tmp_path: Path, mac: str) -> None:
    with plugged(FAR, appliance()), pytest.raises(SallyportError) as caught:
        attack(tmp_path, mac=mac)
    assert not isinstance(caught.value, CouldNotTest)


def test_without_a_terminal_the_address_must_be_named(namespace: str, tmp_path: Path) -> None:
    with plugged(FAR, appliance()), refused(tmp_path, "nobody confirmed", mac=""):
        pass
    with plugged(FAR, appliance()), refused(tmp_path, "was not confirmed", mac="", ask=lambda question: OTHER):
        pass


def test_the_address_can_be_typed_and_what_comes_meanwhile_is_judged(namespace: str, tmp_path: Path) -> None:
    with plugged(FAR, planted()) as plug:

        def ask(question: str) -> str:
            assert VM_MAC in question
            plug.say(ether(b"\xff" * 6, mac_bytes("00:11:22:33:44:55"), 0x88B5, bytes(46)))
            return f" {VM_MAC.upper().replace(':', '-')} "

        console = Console(file=io.StringIO())
        with proof.device.reach(PROFILE, NEAR, tmp_path, console, mac="", port_mac="", ask=ask) as device:
            assert wait_for(lambda: device.frame_log.offences())
            assert "00:11:22:33:44:55" in device.frame_log.offences().reasons()


class _Dying:
    """A socket that gives one frame, and then its interface is gone."""

    def __init__(self) -> None:
        self._left = [FRAME]

    def recvmsg_into(self, buffers: list[bytearray], _size: int) -> tuple[int, list[object], int, object]:
        if not self._left:
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
        frame = self._left.pop()
        buffers[0][: len(frame)] = frame
        return len(frame), [], 0, None


def test_what_was_read_before_the_interface_died_did_arrive(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with PacketWire(NEAR) as near, near.tap() as tap:
        real = near._in
        monkeypatch.setattr(near, "_in", _Dying())
        with pytest.raises(OSError, match="down"):
            near._drain(bytearray(9100))
        monkeypatch.setattr(near, "_in", real)
        assert [frame.raw for frame in tap.take(1)] == [FRAME]

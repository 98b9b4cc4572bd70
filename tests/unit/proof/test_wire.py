"""The wire's framing, its record, and its behaviour towards a hostile far end."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

import pytest
from scapy.utils import PcapNgReader

from proof.wire.frame_log import MAX_REASONS, FrameLog
from proof.wire.wire import MAX_FRAME, StreamWire, WireError, encode


def test_frames_pass_whole_however_the_stream_is_cut() -> None:
    near, far = socket.socketpair()
    frames = [bytes([n]) * (14 + 97 * n) for n in range(1, 30)]
    with StreamWire(near) as wire, wire.tap() as tap:
        data = encode(frames)
        for start in range(0, len(data), 7):
            far.sendall(data[start : start + 7])
        got: list[bytes] = []
        while len(got) < len(frames):
            got += [frame.raw for frame in tap.take(1)]
        assert got == frames
        wire.send(b"x" * 20)
        assert far.recv(100) == struct.pack("!I", 20) + b"x" * 20
    far.close()


@pytest.mark.parametrize("length", [0, MAX_FRAME + 1, 0xFFFFFFFF])
def test_malformed_framing_ends_the_wire(length: int) -> None:
    near, far = socket.socketpair()
    with StreamWire(near) as wire, wire.tap() as tap:
        far.sendall(struct.pack("!I", length))
        with pytest.raises(WireError, match="malformed framing"):
            _ = [tap.take(0.5) for _ in range(20)]
        with pytest.raises(WireError):
            wire.send(b"x" * 60)
    far.close()


def test_what_came_before_malformed_framing_did_arrive() -> None:
    near, far = socket.socketpair()
    frame_log = FrameLog(lambda frame: None)
    with StreamWire(near, frame_log=frame_log) as wire, wire.tap() as tap:
        far.sendall(encode([b"\x01" * 60, b"\x02" * 60]) + struct.pack("!I", 0))
        assert [frame.raw[:1] for frame in tap.take(5)] == [b"\x01", b"\x02"]
        assert frame_log.frames == 2
        with pytest.raises(WireError, match="malformed framing"):
            _ = [tap.take(0.5) for _ in range(20)]
    far.close()


def test_a_tap_gets_what_it_wants_and_nobody_is_woken_for_the_rest() -> None:
    near, far = socket.socketpair()
    with StreamWire(near) as wire, wire.tap(lambda frame: frame.raw[0] == 2) as picky, wire.tap() as tap:
        far.sendall(encode([bytes([1 + n % 2]) * 60 for n in range(10)]))
        while wire.received < 10:
            threading.Event().wait(0.01)
        assert [frame.raw[0] for frame in picky.take(1)] == [2] * 5
        assert len(tap.take(1)) == 10
        far.sendall(encode([b"\x01" * 60]))
        assert len(tap.take(1)) == 1
        assert picky.take(0.05) == []
    far.close()


def test_a_closed_far_end_is_an_error_and_not_silence() -> None:
    near, far = socket.socketpair()
    with StreamWire(near) as wire, wire.tap() as tap:
        far.close()
        with pytest.raises(WireError, match="closed the wire"):
            _ = [tap.take(0.5) for _ in range(20)]


def test_a_flood_that_overruns_a_probe_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.wire.wire.TAP_FRAMES", 5)
    near, far = socket.socketpair()
    with StreamWire(near) as wire, wire.tap() as tap:
        far.sendall(encode([bytes(60)] * 9))
        while wire.received < 9:
            threading.Event().wait(0.01)
        with pytest.raises(WireError, match="4 frames dropped"):
            tap.take(1)
    far.close()


def test_every_frame_is_recorded_from_the_first_on(tmp_path: Path) -> None:
    path, pcap = tmp_path / "port.sock", tmp_path / "port.pcapng"
    frame_log = FrameLog(lambda frame: None)
    with StreamWire.listen(path, frame_log=frame_log, pcap=pcap) as wire:
        assert wire.connected_at is None
        with socket.socket(socket.AF_UNIX) as far:
            far.connect(str(path))
            far.sendall(encode([b"\x01" * 60]))
            wire.wait_connected(2)
            wire.send(b"\x02" * 61)
            assert len(far.recv(100)) == 65
            while wire.received < 1:
                threading.Event().wait(0.01)
        with pytest.raises(OSError, match=r".*"), socket.socket(socket.AF_UNIX) as second:
            second.connect(str(path))  # one connection, or the record would have a gap
    assert not path.exists()
    assert frame_log.frames == 1
    assert sorted(bytes(packet) for packet in PcapNgReader(str(pcap))) == [b"\x01" * 60, b"\x02" * 61]


def test_nobody_connecting_is_an_error(tmp_path: Path) -> None:
    with StreamWire.listen(tmp_path / "s") as wire, pytest.raises(WireError, match="nobody connected"):
        wire.wait_connected(0.05)
    with pytest.raises(WireError, match="cannot listen"):
        StreamWire.listen(tmp_path / "missing" / "s")


def test_a_frame_log_stays_small_whatever_comes() -> None:
    near, far = socket.socketpair()
    numbers = iter(range(10**6))
    frame_log = FrameLog(lambda frame: f"reason {next(numbers)}")
    with StreamWire(near, frame_log=frame_log) as wire:
        far.sendall(encode([bytes(60)] * 500))
        while wire.received < 500:
            threading.Event().wait(0.01)
    offences = frame_log.offences()
    assert len(offences.by_reason) == MAX_REASONS + 1
    assert sum(entry.count for entry in offences.by_reason.values()) == 500
    far.close()

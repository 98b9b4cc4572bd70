"""The capture switch: a pcapng file that others can read, limited in size, with verdicts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import RawPcapNgReader

from tests.unit.forwarder.rig import Row, Running, frame, from_vm, needs_root, wait_for
from tests.unit.forwarder.test_ring import path

pytestmark = needs_root


@pytest.fixture
def row() -> Iterator[Row]:
    with Row() as made:
        yield made


def start(way: Any, file: Path, limit: int = 1 << 20) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        way.capture_start(descriptor, limit)
    finally:
        os.close(descriptor)


def read(file: Path) -> list[tuple[bytes, str]]:
    """Frames and their comments."""
    with RawPcapNgReader(str(file)) as reader:
        return [(data, (meta.comments or [b""])[0].decode()) for data, meta in reader]


def test_frames_of_both_directions_with_their_verdicts(row: Row, tmp_path: Path) -> None:
    way = path(row)
    tagged = frame(tags=b"\x81\x00\x20\x05")
    with Running(way), row.socket("outside") as outside, row.socket("vm") as vm:
        outside.send(frame())  # before the capture: not in it
        assert vm.receive()
        start(way, tmp_path / "a.pcapng")
        outside.send(tagged, frame(ethertype=0x88CC))
        assert vm.receive()
        vm.send(from_vm(size=1514))
        assert outside.receive()
        assert wait_for(lambda: way.capture_state()["frames"] == 3)
        assert way.capture_stop()
        assert not way.capture_stop()
        outside.send(frame())
        assert vm.receive()
    found = read(tmp_path / "a.pcapng")
    assert found == [(tagged, "passed"), (frame(ethertype=0x88CC), "ethertype"), (from_vm(size=1514), "passed")]


def test_the_file_never_exceeds_its_limit_and_frames_go_on(row: Row, tmp_path: Path) -> None:
    way = path(row)
    with Running(way), row.socket("outside") as outside, row.socket("vm") as vm:
        start(way, tmp_path / "a.pcapng", 8192)
        outside.send(*[frame(size=1500)] * 20)
        assert len(vm.receive(20)) == 20
        state = way.capture_state()
        assert state["missed"] > 0
        assert state["frames"] + state["missed"] == 20
        way.capture_stop()
    assert 1500 < (tmp_path / "a.pcapng").stat().st_size <= 8192
    assert len(read(tmp_path / "a.pcapng")) == state["frames"]


def test_one_capture_at_a_time_and_no_limit_that_holds_nothing(row: Row, tmp_path: Path) -> None:
    way = path(row)
    start(way, tmp_path / "a.pcapng")
    with pytest.raises(OSError, match="cannot start a capture"):
        start(way, tmp_path / "b.pcapng")
    way.capture_stop()
    with pytest.raises(OSError, match="cannot start a capture"):
        start(way, tmp_path / "b.pcapng", 100)

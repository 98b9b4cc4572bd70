"""What the host says of itself, and to systemd."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest

from backend.common import notify
from backend.daemon import host_status


def test_the_root_hash_comes_from_the_command_line() -> None:
    value = "0123456789abcdef" * 4
    assert host_status.root_hash(f"a=b sallyport.roothash={value} quiet\n") == value
    assert host_status.root_hash(f"sallyport.roothash={value}\n") == value
    assert host_status.root_hash(f"xsallyport.roothash={value}\n") == ""
    assert host_status.root_hash("sallyport.roothash=<script>\n") == ""
    assert host_status.root_hash("quiet\n") == ""


def test_memory_is_in_bytes() -> None:
    assert host_status.memory("MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:  1024 kB\n") == (2097152, 1048576)


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    address = f"@sallyport-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify.notify("READY=1")
        assert systemd.recv(100) == b"READY=1"
    notify.notify("READY=1")  # nobody listens


def test_the_watchdog_is_fed_at_half_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    for text, expected in (("30000000", 15.0), ("", None), ("0", None), ("x", None)):
        monkeypatch.setenv("WATCHDOG_USEC", text)
        assert notify.watchdog_interval() == expected
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert notify.watchdog_interval() is None


def test_a_file_that_systemd_opened_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sd_listen_fds(3): from descriptor 3 on, in the order of their names, for this process alone."""
    descriptors = []
    for name in "first", "tun":
        descriptors.append(os.open(tmp_path / name, os.O_CREAT | os.O_RDWR))
        # In a row, as systemd leaves them.
        descriptors.append(fcntl.fcntl(descriptors[-1], fcntl.F_DUPFD, 500))
    monkeypatch.setattr(notify, "_LISTEN_FDS_START", descriptors[1])
    monkeypatch.setenv("LISTEN_FDNAMES", "first:tun")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    found = notify.given("tun")
    assert os.fstat(found).st_ino == (tmp_path / "tun").stat().st_ino
    assert not os.get_inheritable(found)
    with pytest.raises(OSError, match="no file 'other'"):
        notify.given("other")
    monkeypatch.setenv("LISTEN_PID", "1")
    with pytest.raises(OSError, match="no file 'tun'"):
        notify.given("tun")
    for descriptor in descriptors:
        os.close(descriptor)

"""What the host says of itself, and to systemd."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from backend import host_status, notify


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

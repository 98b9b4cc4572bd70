"""The VM's console in the host's journal: marked, bounded, escape, whatever it prints."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import socket
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.guests import console
from backend.guests.console import Console
from tests.unit.backend.rig import Now, until


class Journal:
    """The journal's socket, and a console that writes to it."""

    def __init__(self, folder: Path) -> None:
        self.now = Now()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind(str(folder / "journal"))
        self.console = Console("vm-console", folder / "journal", self.now)

    def entries(self) -> list[dict[str, str]]:
        """What came, as journald takes it apart: one field a line, ended by its newline."""
        found: list[dict[str, str]] = []
        while True:
            try:
                datagram = self.socket.recv(1 << 16)
            except BlockingIOError:
                return found
            assert datagram.endswith(b"\n")
            fields = [line.split("=", 1) for line in datagram.decode("ascii").splitlines()]
            assert len(dict(fields)) == len(fields)
            found.append(dict(fields))

    def messages(self) -> list[str]:
        return [entry["MESSAGE"] for entry in self.entries()]


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    # More than a socket's queue holds by default would be dropped as well: this is about the bucket.
    monkeypatch.setattr(console, "BURST", 8.0)
    made = Journal(tmp_path)
    yield made
    made.console.close()
    made.socket.close()


def test_a_line_is_one_entry_with_the_consoles_mark(journal: Journal) -> None:
    journal.console.feed(b"Linux ver")
    assert journal.entries() == []
    journal.console.feed(b"sion 6\r\nnext\n\n\r\n")
    marked = {"PRIORITY": "6", "SYSLOG_IDENTIFIER": "vm-console"}
    assert journal.entries() == [marked | {"MESSAGE": "Linux version 6"}, marked | {"MESSAGE": "next"}]


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (b"<0>supervisor: the VM is well", "<0>supervisor: the VM is well"),
        (b"\x1b]0;owned\x07\x1b[2J\x9b2J", "\\x1b]0;owned\\x07\\x1b[2J\\x9b2J"),
        (b"a\rsystemd[1]: all is well", "a\\x0dsystemd[1]: all is well"),
        (b"a\0b\tc\x0b\x0c\x85", "a\\x00b\\x09c\\x0b\\x0c\\x85"),
        ("\u202eevil\u2028PRIORITY=0".encode(), "\\xe2\\x80\\xaeevil\\xe2\\x80\\xa8PRIORITY=0"),
        (rb"\x1b", r"\\x1b"),
    ],
)
def test_what_no_line_of_text_has_is_escaped(journal: Journal, printed: bytes, shown: str) -> None:
    journal.console.feed(printed + b"\n")
    (entry,) = journal.entries()
    assert entry == {"PRIORITY": "6", "SYSLOG_IDENTIFIER": "vm-console", "MESSAGE": shown}


def test_a_line_without_an_end_takes_no_memory_and_is_cut(journal: Journal) -> None:
    for _ in range(100):
        journal.console.feed(b"x" * 65536)
    assert len(journal.console._line) <= console.WIDTH + 1
    journal.console.feed(b"\n" + b"\x1b" * 500 + b"\n" + b"y" * console.WIDTH + b"\n")
    long, escaped, just = journal.messages()
    assert long == "x" * (console.WIDTH - 4) + " ..."
    assert len(escaped) == console.WIDTH
    assert escaped.endswith(" ...")
    assert just == "y" * console.WIDTH


def test_a_flood_is_counted_by_the_supervisor_and_not_sent(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        journal.console.feed(b"spam\n" * 10_000)
        assert len(journal.messages()) == 8
        journal.now.s += 1 / console.RATE + 1
        journal.console.feed(b"quiet\n")
        assert journal.messages() == ["quiet"]
    assert caplog.messages == ["vm-console: 9992 lines dropped"]


def test_a_journal_that_takes_nothing_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lonely = Console("vm-console", tmp_path / "nobody")
    lonely.feed(b"one\ntwo\n")
    lonely.close()
    assert caplog.messages == ["vm-console: 1 lines dropped"] * 2


def test_the_pipe_outlives_its_writers_and_is_read_as_fast_as_it_is_filled(journal: Journal) -> None:
    async def test() -> None:
        journal.console.start()
        for words in "echo one; printf two", "echo three; head -c 3000000 /dev/zero":
            child = await asyncio.create_subprocess_exec("sh", "-c", words, stdout=journal.console.write_end)
            async with asyncio.timeout(10):
                assert await child.wait() == 0
            await until(lambda: _waiting(journal.console) == 0)
            journal.console.end_line()
        assert journal.messages()[:3] == ["one", "two", "three"]

    asyncio.run(test())


def _waiting(made: Console) -> int:
    """Bytes in its pipe."""
    return int.from_bytes(fcntl.ioctl(made._read_end, termios.FIONREAD, bytes(4)), "little")

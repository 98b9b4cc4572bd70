"""The bytes of an image file, read where they are; with other bytes in their place for a planted fault."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

_CHUNK = 1 << 20
_BLOCK = 512
_NOWHERE = 1 << 62
MAX_RANGES = 64
"""Places that are told apart; what differs in more is bad enough."""


@dataclass(frozen=True)
class View:
    """An open file of ``size`` bytes. ``planted`` are bytes by offset that are seen in the place of the file's own."""

    descriptor: int
    size: int
    planted: Mapping[int, bytes] = field(default_factory=dict)

    @staticmethod
    @contextmanager
    def open(path: Path) -> Iterator[View]:
        """A regular file, for the time of the context; `OSError` if it cannot be read."""
        with path.open("rb") as file:
            yield View(file.fileno(), os.fstat(file.fileno()).st_size)

    def plant(self, at: int, data: bytes) -> View:
        """The same with other bytes at an offset; behind the end, the file is longer."""
        return replace(self, size=max(self.size, at + len(data)), planted={**self.planted, at: data})

    def flip(self, at: int) -> View:
        """The same with one byte inverted."""
        return self.plant(at, bytes([self.read(at, 1)[0] ^ 0xFF]))

    def read(self, at: int, length: int) -> bytes:
        """``length`` bytes, less at the end of the file."""
        end = min(at + length, self.size)
        if end <= at:
            return b""
        data = os.pread(self.descriptor, end - at, at).ljust(end - at, b"\0")
        for place, other in self.planted.items():
            first, last = max(place, at), min(place + len(other), end)
            if first < last:
                data = data[: first - at] + other[first - place : last - place] + data[last - at :]
        return data

    def _next(self, at: int) -> int:
        """The first offset from ``at`` on where something else than zeroes may stand (lseek(2), SEEK_DATA)."""
        try:
            found = os.lseek(self.descriptor, at, os.SEEK_DATA)
        except OSError:
            found = _NOWHERE  # behind the last data, or behind the end
        for place, other in self.planted.items():
            if place + len(other) > at:
                found = min(found, max(place, at))
        return found

    def data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Stretches of at most `_CHUNK` bytes that may hold something else than zeroes: (first, behind the last)."""
        end = min(end, self.size)
        at = start
        while at < end and (at := self._next(at)) < end:
            last = min(at + _CHUNK, end)
            yield at, last
            at = last

    def differences(self, other: View | None, start: int, end: int) -> list[tuple[int, int]]:
        """Where the two differ from ``start`` to ``end``: (first, behind the last), at most `MAX_RANGES`.

        Args:
            other: None for nothing but zeroes.
            start: in bytes, the same place in both.
            end: behind the last byte. A file that is shorter differs there only where the other one is not zero.
        """
        found: list[tuple[int, int]] = []
        end = min(end, max(self.size, other.size if other else 0))
        at = start
        while at < end:
            at = max(at, min(self._next(at), other._next(at) if other else end) // _BLOCK * _BLOCK)
            length = min(_CHUNK, end - at)
            if length <= 0:
                break
            mine = self.read(at, length).ljust(length, b"\0")
            theirs = other.read(at, length).ljust(length, b"\0") if other else bytes(length)
            if mine != theirs:
                for begin in range(0, length, _BLOCK):
                    if mine[begin : begin + _BLOCK] == theirs[begin : begin + _BLOCK]:
                        continue
                    first, last = at + begin, at + min(begin + _BLOCK, length)
                    if found and found[-1][1] == first:
                        found[-1] = (found[-1][0], last)
                    elif len(found) >= MAX_RANGES:
                        return found
                    else:
                        found.append((first, last))
            at += length
        return found


@dataclass(frozen=True)
class Region:
    """A stretch of an image beside the same one of the image made anew (``None``: it must be all zeroes)."""

    what: str
    actual: View
    made: View | None
    start: int
    end: int

    def flipped(self, at: int) -> Region:
        """With one byte inverted, counted from the start, or from the end if it is negative."""
        return replace(self, actual=self.actual.flip((self.end if at < 0 else self.start) + at))

    def objections(self) -> Iterator[str]:
        """Each place that differs."""
        should = "is not zero" if self.made is None else "is not what this checkout makes"
        for first, last in self.actual.differences(self.made, self.start, self.end):
            yield f"{self.what}: {last - first} bytes at {first - self.start:#x} (image: {first:#x}): {should}"

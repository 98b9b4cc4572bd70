"""The bytes of an image file, read in place; some can be overlaid by others, for a planted control."""

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
"""Differing ranges that are reported, at most."""


@dataclass(frozen=True)
class View:
    """An open file of ``size`` bytes; ``planted`` has bytes by offset that are read instead of the file's own."""

    descriptor: int
    size: int
    planted: Mapping[int, bytes] = field(default_factory=dict)

    @staticmethod
    @contextmanager
    def open(path: Path) -> Iterator[View]:
        """Open a regular file for the time of the context; `OSError` if it cannot be read."""
        with path.open("rb") as file:
            yield View(file.fileno(), os.fstat(file.fileno()).st_size)

    def plant(self, at: int, data: bytes) -> View:
        """Return the view with other bytes at an offset; behind the end they make the file longer."""
        return replace(self, size=max(self.size, at + len(data)), planted={**self.planted, at: data})

    def flip(self, at: int) -> View:
        """Return the view with one byte inverted."""
        return self.plant(at, bytes([self.read(at, 1)[0] ^ 0xFF]))

    def read(self, at: int, length: int) -> bytes:
        """Return ``length`` bytes from offset ``at``, fewer at the end of the file."""
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
        """Return the first offset from ``at`` on that may have other bytes than zero (lseek(2), SEEK_DATA)."""
        try:
            found = os.lseek(self.descriptor, at, os.SEEK_DATA)
        except OSError:
            found = _NOWHERE  # behind the last data, or behind the end
        for place, other in self.planted.items():
            if place + len(other) > at:
                found = min(found, max(place, at))
        return found

    def data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield ranges (first, behind the last) of at most `_CHUNK` bytes that may have other bytes than zero."""
        end = min(end, self.size)
        at = start
        while at < end and (at := self._next(at)) < end:
            last = min(at + _CHUNK, end)
            yield at, last
            at = last

    def differences(self, other: View | None, start: int, end: int) -> list[tuple[int, int]]:
        """Return the ranges (first, behind the last) in which the two differ, at most `MAX_RANGES`.

        Args:
            other: what to compare with; None stands for zeroes.
            start: in bytes, the same place in both.
            end: behind the last byte. A shorter file counts as if zeroes followed.
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
    """A range of an image beside that of the rebuilt image (``made``); None: the range must be all zeroes."""

    what: str
    actual: View
    made: View | None
    start: int
    end: int

    def flipped(self, at: int) -> Region:
        """Return the region with one byte inverted: ``at`` counts from the start, or from the end if it is negative."""
        return replace(self, actual=self.actual.flip((self.end if at < 0 else self.start) + at))

    def findings(self) -> Iterator[str]:
        """Yield a line for each range that differs."""
        should = "is not zero" if self.made is None else "is not what this checkout builds"
        for first, last in self.actual.differences(self.made, self.start, self.end):
            yield f"{self.what}: {last - first} bytes at {first - self.start:#x} (image: {first:#x}): {should}"

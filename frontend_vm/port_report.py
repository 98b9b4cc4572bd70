"""A port as text for a terminal of 80 columns: its datapath and its counters."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from frontend_vm.log import printable
from frontend_vm.protocol.port import Counter, Port
from frontend_vm.words import WORDS

WIDTH = 80
COLUMN = 14
"""Width of a column in characters, at least."""
DIRECTIONS = {"rx_": 0, "tx_": 1}
"""Prefixes of counters' names, seen from the device: ``rx`` came in at the port. Without one, both are counted
together."""
NAME = 24
"""Characters of a name that are printed; no honest one is longer."""


@dataclass
class Row:
    """The counters of one name: incoming and outgoing, or both together."""

    name: str
    ways: tuple[Counter | None, Counter | None] = (None, None)
    both: Counter | None = None

    @property
    def frames(self) -> int:
        """Frames of all directions."""
        return sum(counter.frames for counter in (*self.ways, self.both) if counter is not None)


def rows(verdicts: Iterable[Counter]) -> list[Row]:
    """Verdicts by name, in the order in which they came."""
    made: dict[str, Row] = {}
    for verdict in verdicts:
        direction = DIRECTIONS.get(verdict.name[:3])
        name = verdict.name if direction is None else verdict.name[3:]
        row = made.setdefault(name, Row(name))
        if direction is None:
            row.both = verdict
        else:
            row.ways = (verdict, row.ways[1]) if direction == 0 else (row.ways[0], verdict)
    return list(made.values())


def report(port: Port, *, full: bool) -> str:
    """The port as text of printable characters.

    Args:
        port: the port.
        full: also list verdicts without frames, and explain each.
    """
    every = rows(port.verdicts)
    shown = [row for row in every if full or row.frames or row.name == "passed"]
    lines = [*_path(port, full=full), "", *_table(port, shown)]
    if len(shown) < len(every):
        lines.append(f"{len(every) - len(shown)} more are zero; 'forwarder status' lists them all.")
    if port.faults:
        lines += ["", "The VM's NIC was stopped:"]
        for fault in port.faults:
            reason = WORDS.faults.get(fault.name, "for another reason")
            lines += _wrap(f"  {fault.times:,} x ", f"{reason} ({printable(fault.name, NAME)})")
    told = [row for row in shown if full or (row.frames and row.name != "passed")]
    meanings = [(row.name, WORDS.verdicts[row.name][1]) for row in told if row.name in WORDS.verdicts]
    if meanings:
        lines += ["", "What they mean:"]
        for name, meaning in meanings:
            lines += _wrap(f"  {name:<14}", meaning)
    return "".join(f"{line}\n" for line in lines)


def _path(port: Port, *, full: bool) -> list[str]:
    carrier = "link up" if port.carrier else "no link"
    name = printable(port.name, NAME)
    lines = [
        f"{name}  {printable(port.mac, NAME)}  {carrier}",
        f"Data path     {name} -- {port.way} -- {port.vm} -- VM ({'up' if port.vm_up else 'down'})",
    ]
    if full:
        lines += _wrap(f"  {port.way:<12}", WORDS.ways[port.way][1])
        lines += _wrap(f"  {port.vm:<12}", WORDS.vms[port.vm][1])
    return lines


def _table(port: Port, shown: list[Row]) -> list[str]:
    wire = Row("on the wire", (Counter("", port.rx_frames, port.rx_bytes), Counter("", port.tx_frames, port.tx_bytes)))
    cells = [("", "FRAMES IN", "BYTES IN", "FRAMES OUT", "BYTES OUT")]
    for row in (wire, *shown):
        inward = _numbers(row.ways[0] if row.both is None else row.both)
        outward = _numbers(row.ways[1]) if row.both is None else ("", "(both ways)")
        cells.append((printable(row.name, NAME), *inward, *outward))
    # Numbers of the usual size do not move the columns from one call to the next.
    widths = [max(COLUMN, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for name, *numbers in cells:
        padded = (f"{number:>{width}}" for number, width in zip(numbers, widths[1:], strict=True))
        lines.append("  ".join((f"{name:<{widths[0]}}", *padded)))
    return lines


def _numbers(counter: Counter | None) -> tuple[str, str]:
    return ("-", "-") if counter is None else (f"{counter.frames:,}", f"{counter.bytes:,}")


def _wrap(head: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))

"""``python3 -m backend.forwarder``: the process; ``... status`` and ``... capture start|stop`` ask the running one."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

import msgspec

from backend.forwarder import control
from backend.forwarder.errors import ForwarderError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="forwarder", description="Frame forwarder of the management port.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("run", help="be the forwarder (the default)")
    status = commands.add_parser("status", help="counters of the running forwarder")
    status.add_argument("--json", action="store_true", help="for programs")
    capture = commands.add_parser("capture", help="write the port's frames to a pcapng file of limited size")
    capture.add_argument("action", choices=("start", "stop"))
    capture.add_argument("--limit", type=int, default=control.CAPTURE_LIMIT, help="bytes (default: %(default)s)")
    return parser


def _show(answer: control.Answer) -> str:
    port = answer.port
    if port is None:
        return ""
    state = "carrier" if port.carrier else "no carrier"
    lines = [f"{port.name}  {port.mac}  {state}  {port.way} -> {port.vm} ({'up' if port.vm_up else 'down'})"]
    lines += [f"  {c.name:<18} {c.frames:>14} frames {c.bytes:>16} bytes" for c in port.verdicts if c.frames]
    lines += [f"  VM stopped for {fault.name}: {fault.times}" for fault in port.faults]
    if answer.capture:
        lines.append("  capture " + "  ".join(f"{key} {value}" for key, value in answer.capture.items()))
    if answer.file:
        lines.append(f"  {answer.file}")
    return "\n".join(lines)


def _ask(options: argparse.Namespace) -> int:
    request: control.Ask = control.StatusAsk()
    if options.command == "capture":
        request = control.CaptureStart(options.limit) if options.action == "start" else control.CaptureStop()
    answer = asyncio.run(control.ask(request))
    if answer.problem:
        print(f"error: {answer.problem}", file=sys.stderr)
        return 1
    as_json = getattr(options, "json", False)
    print(msgspec.json.encode(answer).decode() if as_json else _show(answer))
    return 0


def main(words: list[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0, or 1 with a sentence and a remedy on standard error."""
    options = _parser().parse_args(words)
    try:
        if options.command in ("status", "capture"):
            return _ask(options)
        from backend.forwarder import process

        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
        asyncio.run(process.serve())
    except ForwarderError as error:
        print(f"error: {error.args[0]}\nwhat to do: {error.remedy}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

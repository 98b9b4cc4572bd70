"""The report as JSON: written for machines, and read back where a statement about it is signed."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import msgspec

from proof.report.report import FileDigest, Report
from proof.result import Result, Verdict, exit_code
from rootfs.base.errors import SallyportError

MAX_REPORT = 64 << 20
"""Bytes of a ``report.json`` that may be read back; a full run writes about 100 kB."""
_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_DigestOrNone = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]
_Name = Annotated[str, msgspec.Meta(min_length=1)]


def to_json(report: Report) -> str:
    """Return the report as JSON; half a surrogate pair, which no JSON text can carry, becomes a question mark."""
    body = {**asdict(report), "verdict": report.verdict, "exit_code": exit_code(report.results)}
    text = json.dumps(body, indent=2, default=str, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "replace").decode()


class _SavedResult(msgspec.Struct, forbid_unknown_fields=True):
    group: _Name
    name: _Name
    tried: str
    verdict: Verdict
    evidence: str
    control: str
    duration: _Seconds
    frames: tuple[str, ...]


class _SavedDigest(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name
    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: _Digest


class _SavedReport(msgspec.Struct, forbid_unknown_fields=True):
    results: list[_SavedResult]
    image: _Name
    sha256: _DigestOrNone
    seed: int
    started: str
    duration: _Seconds
    command: str
    versions: dict[str, str]
    facts: dict[str, str]
    captures: tuple[_SavedDigest, ...]
    verdict: Verdict
    exit_code: int


def from_json(text: str | bytes) -> Report:
    """Return the report that `to_json` wrote.

    Raises:
        SallyportError: the text is no such report, or its verdict does not follow from its results.
    """
    try:
        if len(text) > MAX_REPORT:
            raise ValueError(f"it is longer than {MAX_REPORT} bytes")
        saved = msgspec.json.decode(text, type=_SavedReport)
        if datetime.fromisoformat(saved.started).tzinfo is None:
            raise ValueError(f"{saved.started!r} has no time zone - at `$.started`")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # a lone surrogate is a ValueError
        raise SallyportError(
            f"this is no report of a proof: {error}", "name a report.json of `invoke verify`"
        ) from error
    values = {name: getattr(saved, name) for name in saved.__struct_fields__}
    values["results"] = [Result(**msgspec.structs.asdict(result)) for result in saved.results]
    values["captures"] = tuple(FileDigest(**msgspec.structs.asdict(capture)) for capture in saved.captures)
    said = values.pop("verdict"), values.pop("exit_code")
    report = Report(**values)
    if said != (report.verdict, exit_code(report.results)):
        raise SallyportError(
            f"this report says {said[0]} (exit code {said[1]}), but its results say {report.verdict}",
            "it was changed after the run: repeat the proof",
        )
    return report

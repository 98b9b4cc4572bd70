"""The report of a whole run of the proof: its results, its facts, and the files that belong to it.

`json_form`, `junit` and `page` write it for machines and people, `summary` prints it, `publish` does all of that.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from proof.result import Result, Verdict, overall

GROUPS: Mapping[str, tuple[str, str]] = {
    "early": ("The port from power-on", "Frames sent before any service is up are answered by nobody but the VM."),
    "controls": (
        "Positive controls at the port",
        "The VM answers what it must, by the path of every negative probe.",
    ),
    "port": (
        "Every port and protocol of the VM",
        "Of all TCP and UDP ports and IP protocols, only the expected ones answer.",
    ),
    "host": ("The host behind the port", "No frame makes the host answer: no address, MAC, protocol or tag."),
    "drops": ("What is dropped, by the counters", "A frame that must be dropped arrived, and its drop was counted."),
    "passive": ("Every frame since power-on", "Every frame that left the port was sent by the VM, in its own name."),
    "audit": ("The audit log", "Refusals displace no operator's entry, and every log is an unbroken hash chain."),
    "devices": ("What the VM can see", "Its devices, firmware and processor are those that were declared."),
    "forwarding": ("Between the VM's two NICs", "Nothing is forwarded: a packet for somebody else ends in the VM."),
    "link-controls": ("Positive controls on the link", "The backend can be reached from inside the VM."),
    "link": ("The host behind the link", "A root shell in the VM reaches the backend's port and nothing else."),
    "spoof": ("Frames with false addresses", "The VM cannot send under another MAC address."),
    "instructions": (
        "Attacks on the instruction protocol",
        "Only a well-formed, fresh, permitted instruction has an effect.",
    ),
    "flood": ("Floods from inside", "The host's own work goes on during a flood, and the backend answers after it."),
    "listeners": ("Listening sockets of the host", "The backend's port is the only one, in every namespace."),
    "system": ("The running host", "Services are confined, the root is read-only, the kernel is set as declared."),
    "flash": (
        "The whole flash image",
        "Each byte is what this checkout builds from its root file system and kernel.",
    ),
    "tree": ("The image's own files", "No secret, no undeclared file or permission, no way to log in."),
}
"""Title and promise of each group, in the order of the report; groups that are not listed follow."""
WORDS = {
    Verdict.CONTROL: "seen",
    Verdict.SEALED: "sealed",
    Verdict.HOLE: "HOLE",
    Verdict.NOT_TESTED: "not tested",
}


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A file that belongs to a run. ``size`` in bytes, ``sha256`` in hex."""

    name: str
    size: int
    sha256: str


def digest_file(path: Path) -> FileDigest:
    """Digest a whole file, whatever its size; `OSError` if it cannot be read."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileDigest(path.name, file.tell(), sha256)


@dataclass(frozen=True)
class Report:
    """A whole run of the proof."""

    results: list[Result]
    image: str
    """Name of the image file, or of the device with its MAC."""
    sha256: str
    """Of the image, in hex; empty for a device, whose image is not known."""
    seed: int
    """Of every random choice of the run."""
    started: str
    """ISO 8601 with its time zone."""
    duration: float
    """Seconds."""
    command: str
    """The command line of the run."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of Sallyport, scapy and Python."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Further facts of the run by name, such as the boot time."""
    captures: tuple[FileDigest, ...] = ()
    """The pcapng files of the run, beside the report."""

    @property
    def verdict(self) -> Verdict:
        """The verdict of the run."""
        return overall(self.results)

    @property
    def repeat(self) -> str:
        """The command line that makes the same random choices again."""
        try:
            words = shlex.split(self.command)
        except ValueError:
            return self.command
        kept = [
            word
            for before, word in zip(["", *words], words, strict=False)
            if "--seed" not in (before, word) and not word.startswith("--seed=")
        ]
        return shlex.join([*kept, "--seed", str(self.seed)])

    def groups(self) -> list[tuple[str, list[Result]]]:
        """Return the results by group, in the report's order."""
        names = sorted({r.group for r in self.results}, key=lambda n: ([*GROUPS, n].index(n), n))
        return [(name, [r for r in self.results if r.group == name]) for name in names]


def group_verdict(results: Iterable[Result]) -> Verdict | None:
    """Return the worst verdict of a group, or ``None`` if it has no results."""
    order = (Verdict.HOLE, Verdict.NOT_TESTED, Verdict.SEALED, Verdict.CONTROL)
    verdicts = {result.verdict for result in results}
    return next((verdict for verdict in order if verdict in verdicts), None)


def captures_of(folder: Path, since: str) -> tuple[FileDigest, ...]:
    """Digest the captures in ``folder`` that were written after ``since`` (ISO 8601): others are of another run."""
    began = datetime.fromisoformat(since).timestamp()
    return tuple(digest_file(path) for path in sorted(folder.glob("*.pcapng")) if path.stat().st_mtime >= began)

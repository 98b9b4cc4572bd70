"""Known vulnerabilities of what an image is made of: its bill of materials against a feed that lies on this machine.

The feed is the Debian security tracker's JSON file, as anybody may download it: source package to CVE to what is known
of it, per release. Nothing is looked up anywhere else, so the report can be made where there is no network, and again
later with a newer feed for the very same image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from debian.debian_support import Version
from packageurl import PackageURL
from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rootfs.base import untrusted
from rootfs.base.errors import SallyportError

MAX_FEED = 512 << 20
"""Bytes of one file of a feed; the security tracker's has about 70 MiB."""
MAX_BILL = 64 << 20
MINOR = frozenset({"unimportant", "low", "low*", "low**"})
"""Urgencies of what hardly anybody can use; listed on request."""


def _is_version(text: str) -> str:
    if text:
        Version(text)  # ValueError
    return text


class _Release(BaseModel):
    model_config = ConfigDict(frozen=True)
    status: Literal["open", "resolved", "undetermined"]
    fixed_version: Annotated[str, AfterValidator(_is_version)] = ""
    urgency: str = ""


class _Issue(BaseModel):
    model_config = ConfigDict(frozen=True)
    description: str = ""
    releases: dict[str, _Release] = {}


_SIGNED = re.compile(r"(?P<name>.+)-signed-[a-z0-9]+")
"""Source packages that only add signatures, as linux-signed-amd64: their binaries have the version of the real source,
which is the one that the tracker knows."""
_FEED = TypeAdapter(dict[str, dict[str, _Issue]])


@dataclass(frozen=True)
class Finding:
    """One vulnerability of one source package; ``fixed`` is empty while there is no mended version."""

    name: str
    source: str
    version: str
    fixed: str
    urgency: str
    certain: bool
    """False where nobody has found out yet whether this release is affected, or in which version it was mended."""
    where: tuple[str, ...]
    """Components by their names in the bill: ``host/libc6``."""
    description: str

    @property
    def minor(self) -> bool:
        """Whether it hardly matters."""
        return self.urgency in MINOR


def read_feed(file: Path) -> dict[str, dict[str, _Issue]]:
    """The feed.

    Raises:
        SallyportError: it cannot be read, or is something else.
    """
    try:
        return _FEED.validate_json(untrusted.read(file, MAX_FEED))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SallyportError(
            f"{file}: not the Debian security tracker's JSON: {where}: {first['msg']}", "download it again"
        ) from error


@dataclass(frozen=True)
class Component:
    """One package of a bill."""

    reference: str
    purl: PackageURL
    cpe: str
    """Its name in advisories, where it has one (NIST IR 7695)."""


def components(bill: Path) -> Iterator[Component]:
    """Each package of a bill.

    Raises:
        SallyportError: it cannot be read.
    """
    try:
        for component in json.loads(untrusted.read(bill, MAX_BILL))["components"]:
            if component.get("purl"):
                purl = PackageURL.from_string(component["purl"])
                yield Component(component["bom-ref"], purl, component.get("cpe", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SallyportError(f"{bill}: not a bill of materials: {error!r}", "name an image's .cdx.json") from error


def unknown(bill: Path, *, by_cpe: bool) -> list[str]:
    """What of the bill was not compared: references of what is no Debian package.

    Args:
        bill: of an image.
        by_cpe: whether what has a CPE was compared, too (`rootfs.artifact.nvd`).
    """
    return [one.reference for one in components(bill) if one.purl.type != "deb" and not (by_cpe and one.cpe)]


def find(bill: Path, feed: Mapping[str, Mapping[str, _Issue]]) -> list[Finding]:
    """What the feed knows of what the bill lists, each vulnerability once for each source package.

    Raises:
        SallyportError: the bill cannot be read, or a package of it names no source package or no release.
    """
    places: dict[tuple[str, str, str], list[str]] = {}
    for component in components(bill):
        reference, purl = component.reference, component.purl
        if purl.type != "deb":
            continue
        qualifiers = dict(purl.qualifiers) if isinstance(purl.qualifiers, dict) else {}
        source, _, version = qualifiers.get("upstream", "").rpartition("@")
        if not source or "distro" not in qualifiers:
            raise SallyportError(
                f"{bill}: {reference} names no source package or no release", "build the image again: the bill is older"
            )
        if signed := _SIGNED.fullmatch(source):
            source, version = signed["name"], purl.version or version
        try:
            Version(version)
        except ValueError as error:
            raise SallyportError(f"{bill}: {reference}: {error}", "name an image's .cdx.json") from error
        places.setdefault((source, version, qualifiers["distro"]), []).append(reference)
    found = []
    for (source, version, release), references in sorted(places.items()):
        for name, issue in sorted(feed.get(source, {}).items()):
            known = issue.releases.get(release)
            if known is None:
                continue
            fixed = known.fixed_version if known.status == "resolved" else ""
            if fixed and Version(version) >= Version(fixed):
                continue
            certain = known.status == "open" or bool(fixed)
            where = tuple(sorted(references))
            found.append(Finding(name, source, version, fixed, known.urgency, certain, where, issue.description))
    return found


def show(found: Sequence[Finding], console: Console, *, all_of_them: bool) -> None:
    """Print a table, the sum below it."""
    listed = [finding for finding in found if all_of_them or not finding.minor]
    if listed:
        table = Table(title_justify="left")
        table.add_column("vulnerability", no_wrap=True)
        for column in ("source package", "mended in", "what"):
            table.add_column(column, overflow="fold")
        for f in listed:
            urgency = f.urgency if f.certain else "not known to be affected"
            what = escape(" ".join(f.description.split())[:120])
            cells = (f.name, f"{f.source} {f.version}", f.fixed or "-")
            table.add_row(*map(escape, cells), f"{what} [dim]({escape(urgency)})[/]")
        console.print(table)
    hidden = len(found) - len(listed)
    mended = sum(bool(finding.fixed) for finding in listed)
    console.print(
        f"known vulnerabilities: {len(listed)}, of them mended in a newer version: {mended}"
        + (f"; minor, not listed: {hidden}" if hidden else "")
    )


def to_json(found: Sequence[Finding]) -> str:
    """All of them as JSON."""
    return json.dumps([asdict(finding) for finding in found], indent=1)

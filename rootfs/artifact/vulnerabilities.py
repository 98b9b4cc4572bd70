"""Known vulnerabilities of an image: compares its bill of materials with a feed that was downloaded before.

The feed is the Debian security tracker's JSON file: source package to CVE to its state in each release. Nothing else is
looked up, so no network is needed, and the same image can be compared again later with a newer feed.
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
"""Maximum bytes of one file of a feed; that of the security tracker has about 70 MiB."""
MAX_BILL = 64 << 20
MINOR = frozenset({"unimportant", "low", "low*", "low**"})
"""Urgencies of vulnerabilities that hardly matter; they are listed on request."""


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
"""Source packages that only add signatures, such as linux-signed-amd64. The tracker knows the package without the
ending, by the version of the binaries."""
_FEED = TypeAdapter(dict[str, dict[str, _Issue]])


@dataclass(frozen=True)
class Finding:
    """One vulnerability of one source package; ``fixed`` is empty as long as no version fixes it."""

    name: str
    source: str
    version: str
    fixed: str
    urgency: str
    certain: bool
    """False if it is not known yet whether this release is affected, or which version fixes it."""
    where: tuple[str, ...]
    """The affected components, by their references in the bill, such as ``host/libc6``."""
    description: str

    @property
    def minor(self) -> bool:
        """Whether its urgency is one of `MINOR`."""
        return self.urgency in MINOR


def read_feed(file: Path) -> dict[str, dict[str, _Issue]]:
    """Read the JSON file of the Debian security tracker.

    Raises:
        SallyportError: the file cannot be read or is malformed; names the field.
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
    """One package of a bill of materials."""

    reference: str
    purl: PackageURL
    cpe: str
    """Its CPE name (NIST IR 7695); empty if it has none."""


def components(bill: Path) -> Iterator[Component]:
    """The packages of a bill of materials.

    Raises:
        SallyportError: the bill cannot be read or is malformed.
    """
    try:
        for component in json.loads(untrusted.read(bill, MAX_BILL))["components"]:
            if component.get("purl"):
                purl = PackageURL.from_string(component["purl"])
                yield Component(component["bom-ref"], purl, component.get("cpe", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SallyportError(f"{bill}: not a bill of materials: {error!r}", "name an image's .cdx.json") from error


def unknown(bill: Path, *, by_cpe: bool) -> list[str]:
    """References of the components of a bill that were not compared: those that are not Debian packages.

    Args:
        bill: the bill of materials of an image.
        by_cpe: whether components with a CPE name were compared as well (`rootfs.artifact.nvd`).
    """
    return [one.reference for one in components(bill) if one.purl.type != "deb" and not (by_cpe and one.cpe)]


def find(bill: Path, feed: Mapping[str, Mapping[str, _Issue]]) -> list[Finding]:
    """Vulnerabilities of the Debian packages in a bill, each once for each source package.

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
    """Print a table of vulnerabilities, and how many there are."""
    listed = [finding for finding in found if all_of_them or not finding.minor]
    if listed:
        table = Table(title_justify="left")
        table.add_column("vulnerability", no_wrap=True)
        for column in ("source package", "fixed in", "what"):
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
        f"known vulnerabilities: {len(listed)}, of them fixed in a newer version: {mended}"
        + (f"; minor, not listed: {hidden}" if hidden else "")
    )


def to_json(found: Sequence[Finding]) -> str:
    """All vulnerabilities as JSON."""
    return json.dumps([asdict(finding) for finding in found], indent=1)

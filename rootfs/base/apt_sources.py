"""Derives the archives of the suite that images are made of from this machine's own apt sources (sources.list(5)).

A source is recognised as Debian's by the origin in its Release file, whatever suite the machine itself uses. Kept are
the options of its entry, in either format, that say how the archive is reached and checked (`signed-by`, `trusted`,
`check-valid-until`, ...).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from debian.deb822 import Deb822

from rootfs.base.errors import SallyportError
from rootfs.base.process import run

SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Checks the signatures of sources that name no key themselves."""
_FIELDS = ("SOURCESENTRY", "REPO_URI", "RELEASE", "SUITE", "COMPONENT", "ORIGIN", "LABEL")
_OTHER_FIELDS = (
    "types", "uris", "suites", "components", "enabled", "description", "architectures", "arch", "languages", "lang",
    "targets", "target", "x-repolib-name",
)  # fmt: skip
"""Fields of an entry that select what is fetched: not kept, unlike those that say how the archive is reached."""
_OTHER_SUITES = re.compile(r"backports|proposed-updates|experimental|rc-buggy|fasttrack")
"""Suites of Debian's archive that are no part of a release."""
_SETTING = re.compile(
    r"Acquire::(https?::.+|Check-Valid-Until|Check-Date|M(ax|in)-ValidTime(::.+)?|Retries|ForceIPv[46])"
    r' "[^"]+";$'
)
_LOGINS = ('Dir::Etc::netrc "/etc/apt/auth.conf";', 'Dir::Etc::netrcparts "/etc/apt/auth.conf.d";')
"""Lets apt read user names and passwords for archives where this machine has them (apt_auth.conf(5))."""
_ONE_LINE = re.compile(r"\s*deb(?:-src)?\s+(?:\[(?P<options>[^\]]*)\])?")
_OPTION = re.compile(r"(?P<name>[a-z0-9-]+?)(?P<how>[-+]?)=(?P<value>\S*)", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """One suite in one archive."""

    uri: str = field(repr=False)
    """May have a password in it."""
    suite: str
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Fields of a stanza besides those that name what to fetch."""
    where: str = ""
    """The entry that it was derived from: file, and number of the line or stanza."""

    def stanza(self, kind: str = "deb", suites: Sequence[str] = ()) -> str:
        """The source as a stanza of a ``.sources`` file (deb822 format).

        Args:
            kind: ``deb`` or ``deb-src``.
            suites: other suites of the same archive; none: its own.
        """
        lines = [f"Types: {kind}", f"URIs: {self.uri}", f"Suites: {' '.join(suites) or self.suite}", "Components: main"]
        return "\n".join([*lines, *(f"{name}: {value}" for name, value in self.options)]) + "\n"


def archive(arch: str = "amd64") -> list[Source]:
    """Sources of `SUITE`, its updates and its security updates, derived from apt's sources of any suite.

    Args:
        arch: Debian's name of the wanted architecture; entries that exclude it are not used.

    Raises:
        SallyportError: apt has no source of Debian, or none for this architecture, or an entry cannot be read.
    """
    asked = "\t".join(f"$({name})" for name in _FIELDS)
    found: dict[tuple[str, str], Source] = {}
    left_out = []
    rows = [
        line.split("\t")
        for line in run(["apt-get", "indextargets", "--format", asked, "Created-By: Packages"]).splitlines()
    ]
    # An entry of the wanted suite itself comes first: its options fit best.
    for words in sorted(rows, key=lambda words: not words[2:3] or not words[2].startswith(SUITE)):
        if len(words) != len(_FIELDS):
            continue
        entry, uri, release, suite, component, origin, label = words
        # Not by the suite's name: other vendors' archives have a suite `stable` with a component `main`, too.
        if (component, origin) != ("main", "Debian") or _OTHER_SUITES.search(f"{release} {suite}"):
            continue
        options = _options(entry, release)
        if not _serves(options, arch):
            left_out.append(f"{entry} (architectures: {options.get('architectures', 'others')})")
            continue
        names = f"{SUITE}{_part(release, suite, label)}"
        if options.get("snapshot", "") and options["snapshot"] in uri:
            del options["snapshot"]  # apt has put it into the address
        found.setdefault((uri, names), Source(uri, names, _kept(options, entry), entry))
    if not any(source.suite == SUITE for source in found.values()):
        if left_out:
            raise SallyportError(
                f"apt's sources of Debian exclude the architecture {arch}: {', '.join(dict.fromkeys(left_out))}",
                f"add {arch} to that entry, or an entry without architectures; then `apt-get update`",
            )
        raise SallyportError(
            "apt on this machine has no Debian archive among its sources",
            "add Debian 12 or newer, component main, to /etc/apt/sources.list(.d), then run `apt-get update`",
        )
    return sorted(found.values(), key=lambda source: source.suite)


def settings() -> str:
    """This machine's apt settings about proxies, retries and the age of lists, in the format of apt.conf(5).

    mmdebstrap needs them, as it has a configuration of its own. Settings that allow unsigned archives are left out.
    """
    lines = [line for line in run(["apt-config", "dump", "Acquire"]).splitlines() if _SETTING.match(line)]
    return "".join(f"{line}\n" for line in [*lines, *_LOGINS])


def told(sources: Sequence[Source]) -> str:
    """From which entries of apt these sources were derived: ``suite by file:number``, for messages."""
    return ", ".join(dict.fromkeys(f"{source.suite} by {source.where}" for source in sources))


def _part(release: str, suite: str, label: str) -> str:
    """The part of a release that a source has: ``-security``, ``-updates``, or empty for the release itself."""
    if label == "Debian-Security" or release.endswith(("-security", "/updates")):
        return "-security"
    return "-updates" if release.endswith("-updates") or suite.endswith("-updates") else ""


def _options(entry: str, release: str) -> dict[str, str]:
    """The fields of the entry that apt calls ``file:number``, names in lower case as a stanza has them."""
    file, _, number = entry.rpartition(":")
    try:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
        if file.endswith(".sources"):
            return _stanza(text, int(number), release)
        return _line(text.splitlines()[int(number) - 1])
    except (OSError, ValueError, IndexError) as error:
        raise SallyportError(
            f"{entry}: this entry of apt's sources cannot be read: {error}",
            "make it readable: its options say how the archive is checked",
        ) from error


def _stanza(text: str, number: int, release: str) -> dict[str, str]:
    stanzas = [{str(name).lower(): str(value) for name, value in one.items()} for one in _paragraphs(text)]
    having = [one for one in stanzas if release in one.get("suites", "").split()]
    chosen = stanzas[number - 1 : number]
    if chosen and chosen[0] in having:
        return chosen[0]
    if len(having) != 1:
        raise ValueError(f"{len(having)} stanzas have the suite {release}")
    return having[0]


def _paragraphs(text: str) -> Iterator[Deb822]:
    return (paragraph for paragraph in Deb822.iter_paragraphs(text.splitlines(), use_apt_pkg=False) if paragraph)


def _line(line: str) -> dict[str, str]:
    match = _ONE_LINE.match(line)
    if match is None:
        raise ValueError(f"not a line of one-line format: {shlex.quote(line[:20])}")
    options: dict[str, str] = {}
    for option in _OPTION.finditer(match["options"] or ""):
        name = option["name"].lower()
        name = "architectures" if name == "arch" else name
        name += {"": "", "+": "-add", "-": "-remove"}[option["how"]]
        options[name] = " ".join([*options.get(name, "").split(), *option["value"].split(",")])
    return options


def _serves(options: dict[str, str], arch: str) -> bool:
    """Whether an entry includes this architecture, or names none."""
    named = options.get("architectures", "").split()
    if named:
        named += options.get("architectures-add", "").split()
    return (not named or arch in named) and arch not in options.get("architectures-remove", "").split()


def _kept(options: dict[str, str], entry: str) -> tuple[tuple[str, str], ...]:
    if "inrelease-path" in options:
        raise SallyportError(
            f"{entry}: inrelease-path belongs to one suite, but {SUITE} is wanted",
            "add an entry without it",
        )
    kept = {
        name: value
        for name, value in options.items()
        if name.removesuffix("-add").removesuffix("-remove") not in _OTHER_FIELDS
    }
    if "signed-by" not in kept and kept.get("trusted", "").lower() not in ("yes", "true", "1"):
        kept["signed-by"] = str(KEYRING)
    return tuple((name.title(), value) for name, value in sorted(kept.items()))

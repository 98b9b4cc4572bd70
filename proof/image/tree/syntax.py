"""The syntax of files that are compared line by line: units of systemd, packet rules."""

from __future__ import annotations

import re

from proof.image.tree.entries import TreeError

_SECTION = re.compile(r"\[(.+)\]\s*\Z")


def unit_lines(text: str, section: str) -> list[str]:
    """Return the assignments of one section as ``Key=Value``, in order (systemd.syntax(7))."""
    inside, lines = False, []
    for raw in re.sub(r"\\\n", " ", text).split("\n"):
        line = raw.strip()
        if match := _SECTION.match(line):
            inside = match[1] == section
        elif inside and line and line[0] not in "#;":
            key, _, value = line.partition("=")
            lines.append(f"{key.strip()}={value.strip()}")
    return lines


def chains(text: str) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return the chains of a rule file (``family table chain`` to lines), and the lines outside of tables (nft(8)).

    Raises:
        TreeError: the braces do not match, or a block is in no table.
    """
    found: dict[str, tuple[str, ...]] = {}
    outside: list[str] = []
    table, chain, lines = "", "", list[str]()
    for raw in text.split("\n"):
        line = " ".join(raw.split())
        if not line or line.startswith("#"):
            continue
        if match := re.fullmatch(r"table (\w+ \w+) \{", line):
            if table:
                raise TreeError(f"a table in a table: {line!r}")
            table = match[1]
        elif match := re.fullmatch(r"chain (\w+) \{", line):
            if not table or chain or f"{table} {match[1]}" in found:
                raise TreeError(f"a chain outside of a table, or twice: {line!r}")
            chain, lines = f"{table} {match[1]}", []
        elif line == "}":
            if chain:
                found[chain], chain = tuple(lines), ""
            elif table:
                table = ""
            else:
                raise TreeError("there is a closing brace too many")
        elif chain:
            lines.append(line)
        elif not (table and re.fullmatch(r"counter \w+ \{ \}|set vm \{ type ether_addr; \}", line)):
            outside.append(line)
    if table or chain:
        raise TreeError("a closing brace is missing")
    return found, outside

"""The judge of packet rules: those of each namespace against the image's own files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from backend.protocol import link_plan
from proof.declared.packet_rules import HOST_RULES, LINK_RULES, port_rules
from proof.host.system.answers import Reference, Space, port_space
from proof.host.system.finding import Finding
from proof.remote_script import RemoteScriptError
from rootfs.spec.profile import Forwarder


def _volatile(key: str, within: str, value: Mapping[str, Any]) -> bool:
    """Whether a field differs from one time to the next: handles, counts, and the VM's address in the set for it."""
    if within == "counter":
        return key in ("handle", "packets", "bytes")
    if within == "set" and key == "elem" and "table" in value:
        elements = value["elem"]
        return isinstance(elements, list) and all(str(e).startswith(link_plan.ACCESS_MAC_PREFIX) for e in elements[:2])
    return key == "handle"


def _normal(value: Any, within: str = "") -> Any:
    """Return a piece of a rule set without `_volatile` fields."""
    if isinstance(value, dict):
        return {key: _normal(inner, key) for key, inner in value.items() if not _volatile(key, within, value)}
    return [_normal(inner) for inner in value] if isinstance(value, list) else value


def ruleset(name: str, answer: tuple[int, str]) -> dict[str, list[str]]:
    """Return the rules by table, each piece as canonical text, in the kernel's order.

    Raises:
        RemoteScriptError: nft(8) failed, or printed something else.
    """
    status, text = answer
    if status != 0:
        raise RemoteScriptError(f"{name}: nft failed: {text[:160]!r}")
    try:
        pieces = msgspec.json.decode(text, type=dict[str, list[dict[str, Any]]]).get("nftables", [])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RemoteScriptError(f"{name}: nft: {error}") from error
    found: dict[str, list[str]] = {}
    for piece in pieces:
        for kind, what in piece.items():
            if kind != "metainfo" and isinstance(what, dict):
                table = f"{what.get('family')} {what.get('name') if kind == 'table' else what.get('table')}"
                found.setdefault(table, []).append(json.dumps(_normal({kind: what}), sort_keys=True))
    return found


_HEAD = re.compile(r'type filter hook (?P<hook>\w+) (?:device "(?P<dev>\w+)" )?priority filter; policy drop;')


def _base_chains(declared: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, str]]:
    """Return the base chains of a declaration: ``family table chain`` to (hook, device)."""
    matches = {name: _HEAD.fullmatch(lines[0]) for name, lines in declared.items() if lines}
    return {name: (match["hook"], match["dev"] or "") for name, match in matches.items() if match}


def _hooks(name: str, rules: Mapping[str, Sequence[str]], declared: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield base chains that are missing, have another hook, or do not drop by default."""
    want = _base_chains(declared)
    for pieces in rules.values():
        for piece in pieces:
            chain = json.loads(piece).get("chain")
            if not chain or "hook" not in chain:
                continue
            full = f"{chain.get('family')} {chain.get('table')} {chain.get('name')}"
            if chain.get("policy") != "drop":
                yield f"{name}: {full} has the policy {chain.get('policy')}"
            if want.pop(full, None) != (chain.get("hook"), chain.get("dev") or ""):
                yield f"{name}: {full} is not declared, or hooked elsewhere"
    yield from (f"{name}: {full} is missing" for full in want)


def judge_rules(spaces: Mapping[str, Space], references: Mapping[str, Reference], forwarder: Forwarder) -> Finding:
    """Judge the packet rules of each namespace by the image's own files, and their base chains by the declared ones."""
    finding = Finding(("rules of the host", "rules of the port", "reference of the host", "reference of the port"))
    declared = {
        "host": {**HOST_RULES, **LINK_RULES},
        "port": port_rules(forwarder),
    }
    where = {"host": "host", "port": port_space(spaces)}
    digests: list[str] = []
    for name, place in where.items():
        reference = references.get("host" if name == "host" else "mgmt", Reference(error="it is missing"))
        try:
            if reference.error or reference.failed:
                raise RemoteScriptError(f"reference of the {name}: {reference.error} {reference.failed}")
            if place not in spaces:
                raise RemoteScriptError(f"the {name}'s namespace is missing")
            want, have = ruleset("reference", reference.rules), ruleset(name, spaces[place].rules)
        except RemoteScriptError as error:
            finding.blind.append(str(error))
            continue
        finding.seen |= {f"reference of the {name}"} if want else set()
        finding.seen |= {f"rules of the {name}"} if have else set()
        for table in sorted(want.keys() | have.keys()):
            if want.get(table) != have.get(table):
                more = [piece for piece in have.get(table, []) if piece not in want.get(table, [])]
                gone = [piece for piece in want.get(table, []) if piece not in have.get(table, [])]
                finding.holes.append(
                    f"{name}: table {table} is not the image's: more {more[:3]}, missing {gone[:3]}, or order"
                )
        finding.holes += _hooks(name, have, declared[name])
        digests.append(f"{name} {hashlib.sha256(json.dumps(have, sort_keys=True).encode()).hexdigest()[:16]}")
    for name, space in spaces.items():
        if name not in where.values():
            try:
                if ruleset(name, space.rules):
                    finding.holes.append(f"{name} is not declared and has rules")
            except RemoteScriptError as error:
                finding.blind.append(str(error))
    finding.counted = f"digests of the rules: {', '.join(digests)}"
    return finding

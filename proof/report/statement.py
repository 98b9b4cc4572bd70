"""A signed statement that binds the results of a proof to the image's hash.

It is an in-toto Statement v1 (in-toto attestation framework, spec/v1/statement.md) with the predicate "test-result"
v0.1 (spec/predicates/test-result.md) in a DSSE envelope (secure-systems-lab/dsse, envelope.md). Any tool for these can
read it; what they have no field for (why not sealed, seed, versions, time) stands in a field of our own, ``sallyport``,
which the parsing rules permit (spec/v1/README.md, "Extension fields"). The form is in `in_toto`, the keys in
`signing_key`.

A statement that is checked is hostile input: its size is bounded before it is parsed, its signature is verified before
what it signs is read, and a file that it names can only be one in the same folder.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.console import Console
from rich.text import Text
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SigningError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]

from proof.report.in_toto import (
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    Digest,
    EnvelopeForm,
    Head,
    Predicate,
    Resource,
    SallyportField,
    Statement,
)
from proof.report.json_form import MAX_REPORT, from_json, to_json
from proof.report.report import WORDS, Report
from proof.report.signing_key import load_private_key, load_public_key
from proof.report.whole_file import replace_text
from proof.result import EXIT_HOLE, EXIT_NOT_TESTED, EXIT_SEALED, Verdict, reason
from rootfs.base import untrusted
from rootfs.base.errors import SallyportError
from rootfs.base.untrusted import printable

REPORT = "report.json"
MAX_STATEMENT = 1 << 20
"""Bytes; a full run's statement has about 20 kB."""
_ALPHABETS = (b"+/", b"-_")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Checked:
    """A statement whose signature, image and files were checked; its verdict may still be another than "sealed"."""

    image: str
    """Name of the image when it was proven; the digest counts, not the name."""
    sha256: str
    keyid: str
    verdict: Verdict
    reason: str
    """Why it is not sealed; empty if it is."""
    passed: tuple[str, ...]
    failed: tuple[str, ...]
    """Probes that found a hole, and those that could not test: neither has passed."""
    not_tested: tuple[str, ...]
    seed: int
    started: str
    command: str
    versions: Mapping[str, str]
    facts: Mapping[str, str]
    present: tuple[str, ...]
    """Files beside the statement that are those of the run."""
    missing: tuple[str, ...]
    """Files of the run that are not beside the statement, so they were not checked."""

    @property
    def exit_code(self) -> int:
        """As `invoke verify` had it."""
        return {Verdict.SEALED: EXIT_SEALED, Verdict.HOLE: EXIT_HOLE}.get(self.verdict, EXIT_NOT_TESTED)


def sign(report: Report, report_files: Iterable[Path], key: Path, out: Path) -> None:
    """Write a signed statement about ``report`` to ``out``, whole or not at all.

    Args:
        report: what the statement says.
        report_files: the files that it binds: ``report.json``, the captures, and whatever else people will read.
        key: PEM file of a private key: ed25519, ECDSA P-256 or RSA; its passphrase, if any, is in `PASSPHRASE`.
        out: the statement; beside the files, or nobody can check them.

    Raises:
        SallyportError: the key cannot be used, a file cannot be read or written, ``report.json`` is not ``report``.
    """
    if not report.sha256:
        raise SallyportError(
            f"no image is known to be {report.image}", "run it without --key: a statement is about an image"
        )
    files = sorted(report_files)
    names = [path.name for path in files]
    if len(set(names)) != len(names) or out.name in names:
        raise SallyportError(f"two files of the statement {out} have the same name", "give each a name of its own")
    signer = CryptoSigner(load_private_key(key))
    configuration = [Resource(path.name, Digest(untrusted.sha256(path))) for path in files]
    payload = msgspec.json.encode(_statement(_saved(report, files), configuration))
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    data = msgspec.json.encode(envelope.to_dict())
    if len(data) > MAX_STATEMENT:
        raise SallyportError(f"the statement has {len(data)} bytes, more than {MAX_STATEMENT}", "bind fewer files")
    try:
        replace_text(out, data.decode())
    except OSError as error:
        raise SallyportError(f"{out} cannot be written: {error.strerror or error}", "name another place") from error


def check(statement: Path, image: Path, public_key: Path) -> Checked:
    """Verify a statement: its signature, that it is about ``image``, and the files of the run that lie beside it.

    Raises:
        SallyportError: the signature, the image or a file is not the signed one; then no part of it may be relied on.
    """
    key = SSlibKey.from_crypto(load_public_key(public_key))
    envelope = _envelope(statement)
    _verify(statement, envelope, key)
    body = _body(statement, envelope)
    _check_image(statement, body.subject[0], image)
    present, missing = _check_files(statement, body.predicate.configuration)
    own = body.predicate.sallyport
    return Checked(
        image=body.subject[0].name,
        sha256=body.subject[0].digest.sha256,
        keyid=key.keyid,
        verdict=own.verdict,
        reason=own.reason,
        passed=tuple(body.predicate.passed_tests),
        failed=tuple(body.predicate.failed_tests),
        not_tested=tuple(own.not_tested),
        seed=own.seed,
        started=own.started,
        command=own.command,
        versions=own.versions,
        facts=own.facts,
        present=present,
        missing=missing,
    )


def show(checked: Checked, console: Console) -> None:
    """Print what a checked statement says."""
    lines = [
        ("image", f"{checked.image}, sha256 {checked.sha256}"),
        ("signed by", f"the given key, {checked.keyid[:16]}"),
        ("run", f"{checked.started}, seed {checked.seed}, {checked.command}"),
        ("probes", f"{len(checked.passed)} passed, {len(checked.failed)} did not"),
        ("why", checked.reason),
        ("files", f"as signed: {', '.join(checked.present) or 'none is here'}"),
        ("missing", ", ".join(checked.missing)),
    ]
    for name, text in lines:
        if text:
            console.print(Text(f"{name:>9}  {printable(text)}"), soft_wrap=True)
    style = {Verdict.SEALED: "bold green", Verdict.HOLE: "bold red"}.get(checked.verdict, "bold yellow")
    console.print(Text(WORDS[checked.verdict].upper(), style))


def _statement(report: Report, configuration: list[Resource]) -> Statement:
    failed = {r.label for r in report.results if r.verdict in (Verdict.HOLE, Verdict.NOT_TESTED)}
    own = SallyportField(
        verdict=report.verdict,
        reason=reason(report.results),
        not_tested=sorted({r.label for r in report.results if r.verdict is Verdict.NOT_TESTED}),
        seed=report.seed,
        started=report.started,
        duration=report.duration,
        command=report.command,
        versions=dict(report.versions),
        facts=dict(report.facts),
    )
    predicate = Predicate(
        result="PASSED" if report.verdict is Verdict.SEALED else "FAILED",
        configuration=configuration,
        passed_tests=sorted({r.label for r in report.results} - failed),
        # By definition a test with a warning passed. A probe without its control did not: it is among the failed.
        warned_tests=[],
        failed_tests=sorted(failed),
        sallyport=own,
    )
    subject = Resource(Path(report.image).name, Digest(report.sha256))
    return Statement(STATEMENT_TYPE, [subject], PREDICATE_TYPE, predicate)


def _saved(report: Report, files: Iterable[Path]) -> Report:
    """Return ``report`` as its file has it; refuse to sign beside one that says something else."""
    path = next((path for path in files if path.name == REPORT), None)
    if path is None:
        raise SallyportError(f"a statement needs the run's {REPORT}", "write the report first")
    saved = from_json(untrusted.read(path, MAX_REPORT))
    if to_json(saved) != to_json(report):
        raise SallyportError(f"{path} is not the report of this run", "write the report again, then sign")
    return saved


def _envelope(path: Path) -> Envelope:
    """Read an envelope; every field of it is whole and of its type, nothing is verified."""
    parsed = _decode(path, untrusted.read(path, MAX_STATEMENT), EnvelopeForm, "a DSSE envelope")
    for name, text in [("payload", parsed.payload), *(("signature", item.sig) for item in parsed.signatures)]:
        if not _is_base64(text):
            raise _refusal(path, f"its {name} is not base64")
    try:
        return Envelope.from_dict(msgspec.to_builtins(parsed))
    except ValueError as error:
        raise _refusal(path, str(error)) from error


def _is_base64(text: str) -> bool:
    """Tell whether ``text`` is the canonical base64 of its bytes, in either alphabet (RFC 4648 section 3.5).

    A decoder ignores the unused bits of the last character, so that different files would be the same statement.
    """
    try:
        return any(
            base64.b64encode(base64.b64decode(text, altchars=a), altchars=a) == text.encode() for a in _ALPHABETS
        )
    except ValueError:
        return False


def _verify(path: Path, envelope: Envelope, key: SSlibKey) -> None:
    """Verify the signature before anything that it signs is looked at."""
    if key.keyid not in envelope.signatures:
        signers = ", ".join(repr(keyid[:16]) for keyid in envelope.signatures)
        raise _refusal(
            path, f"it is not signed by this key ({key.keyid[:16]}) but by {signers}", "name the signer's key"
        )
    try:
        envelope.verify([key], 1)
    except (SigningError, ValueError) as error:
        raise _refusal(path, "its signature does not belong to this key and this content") from error


def _body(path: Path, envelope: Envelope) -> Statement:
    if envelope.payload_type != PAYLOAD_TYPE:
        raise _refusal(path, f"its payload is {envelope.payload_type!r}, not {PAYLOAD_TYPE}")
    head = _decode(path, envelope.payload, Head, "a statement")
    for said, wanted in ((head.type, STATEMENT_TYPE), (head.predicate_type, PREDICATE_TYPE)):
        if said != wanted:
            raise _refusal(path, f"it is of type {said!r}, not {wanted}", "name the statement of a proof")
    body = _decode(path, envelope.payload, Statement, "a statement of `invoke verify`")
    predicate, own = body.predicate, body.predicate.sallyport
    sealed = predicate.result == "PASSED", not predicate.failed_tests, own.verdict is Verdict.SEALED
    if len(set(sealed)) != 1 or predicate.warned_tests:
        raise _refusal(path, f"it contradicts itself: {predicate.result} and {own.verdict}")
    return body


def _check_image(path: Path, subject: Resource, image: Path) -> None:
    found = untrusted.sha256(image)
    if found != subject.digest.sha256:
        raise SallyportError(
            f"{path} is about {subject.name} (sha256 {subject.digest.sha256}), not {image} (sha256 {found})",
            "name the image that was proven; if it is this one, it was changed since",
        )


def _check_files(path: Path, files: Iterable[Resource]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the files that are there as they were signed, and of those that are not there."""
    present, missing = [], []
    for file in files:
        beside = path.parent / file.name
        if not os.path.lexists(beside):
            missing.append(file.name)
            continue
        if untrusted.sha256(beside) != file.digest.sha256:
            raise SallyportError(
                f"{beside} is not the file that was signed: its sha256 differs",
                "put the file of this run there, or remove it",
            )
        present.append(file.name)
    return tuple(present), tuple(missing)


def _decode(path: Path, data: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # a lone surrogate is a ValueError
        raise _refusal(path, f"it is not {what}: {error}", "name the statement of a proof") from error


def _refusal(
    path: Path, why: str, hint: str = "do not rely on it: get the statement again, or repeat the proof"
) -> SallyportError:
    return SallyportError(f"{path}: {why}", hint)

"""The form of a signed statement: an in-toto Statement v1 with the predicate "test-result", in a DSSE envelope.

Sources: in-toto attestation framework, spec/v1/statement.md, spec/v1/resource_descriptor.md and
spec/predicates/test-result.md; secure-systems-lab/dsse, envelope.md.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from proof.result import Verdict

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_SIGNATURES = 16
Hex = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[^/\x00]{1,255}\Z")]
Tests = Annotated[list[str], msgspec.Meta(max_length=100_000)]


class Signature(msgspec.Struct, forbid_unknown_fields=True):
    """A signature of an envelope: the key's identifier, and the base64 of the signature."""

    keyid: str
    sig: str


class EnvelopeForm(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """DSSE 1.0.2, envelope.md. Fields of others are refused: nothing would sign them."""

    payload: str
    payload_type: str
    signatures: Annotated[list[Signature], msgspec.Meta(min_length=1, max_length=MAX_SIGNATURES)]


class Digest(msgspec.Struct):
    """A SHA-256, 64 hex digits."""

    sha256: Hex


class Resource(msgspec.Struct):
    """in-toto, spec/v1/resource_descriptor.md: what we use of it."""

    name: FileName
    digest: Digest


class SallyportField(msgspec.Struct, rename="camel"):
    """The field ``sallyport`` of the predicate."""

    verdict: Verdict
    reason: str
    not_tested: Tests
    seed: int
    started: str
    duration: float
    command: str
    versions: dict[str, str]
    facts: dict[str, str]


class Predicate(msgspec.Struct, rename="camel"):
    """in-toto, spec/predicates/test-result.md. Unknown fields are ignored, as the framework has it."""

    result: Literal["PASSED", "WARNED", "FAILED"]
    configuration: Annotated[list[Resource], msgspec.Meta(max_length=1000)]
    passed_tests: Tests
    warned_tests: Tests
    failed_tests: Tests
    sallyport: SallyportField


class Statement(msgspec.Struct, rename={"type": "_type", "predicate_type": "predicateType"}):
    """in-toto, spec/v1/statement.md."""

    type: str
    subject: Annotated[list[Resource], msgspec.Meta(min_length=1, max_length=1)]
    predicate_type: str
    predicate: Predicate


class Head(msgspec.Struct, rename={"type": "_type", "predicate_type": "predicateType"}):
    """The two fields that say which schema the rest of a statement has."""

    type: str = ""
    predicate_type: str = ""

"""Validates requests before anything acts on them: schema, order, rate."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from backend.protocol.codec import VERSION, Request, decode_request
from backend.protocol.rate_limit import Bucket, Clock
from backend.protocol.refusal import Refused

SEQ_FREE = 2**62
SEQ_PER_SECOND = 2**32
"""Above `SEQ_FREE`, ``seq`` may grow by at most this much per second. Else a compromised VM could send the largest
possible number and so lock out every later VM until the host reboots; with this limit it would need 30 years. Clients
that count nanoseconds since 1970 stay below `SEQ_FREE` until 2116, whatever their clocks do."""

# Every exception that msgspec raises for hostile JSON: deep nesting ends in RecursionError, bad UTF-8 in ValueError.
NOT_A_MESSAGE = (msgspec.DecodeError, ValueError, RecursionError)


class Envelope(Struct):
    """The two fields that requests of all versions have."""

    v: int = VERSION
    seq: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


_envelope_decoder = msgspec.json.Decoder(Envelope)


class RequestValidator:
    """Admits requests. There is one for all connections, as ``seq`` and the rate are global."""

    def __init__(self, rate: float, burst: float, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._bucket = Bucket(rate, burst, clock)
        self._last_seq = 0
        self._last_at = clock()

    def admit(self, line: bytes) -> Request:
        """The request in `line`.

        Raises:
            Refused: ``malformed``, ``version``, ``replayed`` or ``limited``.
        """
        wait = self._bucket.take()
        try:
            request = decode_request(line)
        except NOT_A_MESSAGE as error:
            raise _refusal(line, error) from None
        self._check_order(request.seq)
        if wait > 0.0:
            raise Refused("limited", "too many requests", seq=request.seq, retry_after_s=wait)
        return request

    def _check_order(self, seq: int) -> None:
        now = self._clock()
        furthest = max(SEQ_FREE, self._last_seq + int(SEQ_PER_SECOND * (now - self._last_at)) + 1)
        if seq <= self._last_seq:
            raise Refused("replayed", "seq was seen before", seq=seq, last_seq=self._last_seq)
        if seq > furthest:
            raise Refused("replayed", "seq runs ahead; go on from last_seq", seq=seq, last_seq=self._last_seq)
        self._last_seq = seq
        self._last_at = now


def _refusal(line: bytes, error: Exception) -> Refused:
    try:
        envelope = _envelope_decoder.decode(line)
    except NOT_A_MESSAGE:
        envelope = Envelope()
    if envelope.v != VERSION:
        return Refused("version", f"this backend speaks version {VERSION} only", seq=envelope.seq)
    return Refused("malformed", "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error), seq=envelope.seq)

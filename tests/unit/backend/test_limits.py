"""Limits, sessions, and the order of requests."""

from __future__ import annotations

import time

import msgspec
import pytest

from backend.daemon.sessions import Sessions
from backend.daemon.throttle import SlowDown
from backend.daemon.validator import SEQ_FREE, RequestValidator
from backend.protocol.codec import Request, encode
from backend.protocol.fields import Token
from backend.protocol.peers import Peer
from backend.protocol.rate_limit import Bucket
from backend.protocol.refusal import Refused
from backend.protocol.vm import Heartbeat
from tests.unit.backend.rig import Now

HERE = Peer.parse("192.0.2.7")


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    now = Now()
    bucket = Bucket(2.0, 3.0, now)
    assert [bucket.take() for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 0.5]
    now.s += 0.5
    assert [bucket.take() for _ in range(2)] == [0.0, 0.5]
    now.s += 3600
    assert [bucket.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_failed_logins_wait_twice_as_long_each_time_up_to_eight_seconds() -> None:
    now = Now()
    slow = SlowDown(now)
    waits = []
    for _ in range(12):
        slow.failed()
        waits.append(slow.wait())
        now.s += slow.wait()
    assert waits == [0, 0, 1, 2, 4, 8, 8, 8, 8, 8, 8, 8]
    for _ in range(5000):
        slow.failed()
    assert slow.wait() == 8
    slow.succeeded()
    assert slow.wait() == 0
    slow.failed()
    assert slow.wait() == 0


def test_sessions_end_when_idle_and_at_the_end_of_their_life() -> None:
    now = Now()
    sessions = Sessions(size=4, idle_s=10, life_s=100, clock=now)
    token = sessions.open("ssh", HERE)[0]
    for _ in range(12):
        now.s += 8
        found = sessions.find(token)
        assert found is not None
        assert found.where == "ssh 192.0.2.7"
    now.s += 8
    assert sessions.find(token) is None
    token = sessions.open("ssh", HERE)[0]
    now.s += 10
    assert sessions.find(token) is None
    assert len(sessions) == 0


def test_the_session_that_is_idle_longest_makes_room() -> None:
    now = Now()
    sessions = Sessions(size=3, idle_s=100, life_s=1000, clock=now)
    tokens = []
    for _ in range(3):
        tokens.append(sessions.open("ssh", HERE)[0])
        now.s += 1
    sessions.find(tokens[0])
    tokens.append(sessions.open("https", HERE)[0])
    assert [sessions.find(token) is not None for token in tokens] == [True, False, True, True]
    assert len(sessions) == 3


def test_tokens_fit_the_schema_and_are_not_kept() -> None:
    sessions = Sessions(size=3, idle_s=100, life_s=1000)
    token = sessions.open("ssh", HERE)[0]
    msgspec.convert(token, Token)
    assert token not in repr(vars(sessions))
    assert token.encode() not in b"".join(sessions._by_digest)


def _line(seq: int) -> bytes:
    return encode(Request(v=1, seq=seq, do=Heartbeat()))


def test_a_vm_cannot_use_up_the_numbers_for_its_successors() -> None:
    now = Now()
    validator = RequestValidator(1e6, 1e6, now)
    assert validator.admit(_line(1)).seq == 1
    assert validator.admit(_line(SEQ_FREE)).seq == SEQ_FREE
    for greedy in 2**63 - 1, SEQ_FREE + 2**40:
        with pytest.raises(Refused) as refused:
            validator.admit(_line(greedy))
        assert (refused.value.error.code, refused.value.error.last_seq) == ("replayed", SEQ_FREE)
    # The honest successor, whose clock is behind, goes on from last_seq.
    assert validator.admit(_line(SEQ_FREE + 1))
    now.s += 1
    assert validator.admit(_line(SEQ_FREE + 2**31))


def test_a_client_clock_that_jumps_ahead_is_followed() -> None:
    validator = RequestValidator(1e6, 1e6, Now())
    assert validator.admit(_line(1))
    assert validator.admit(_line(time.time_ns()))
    assert validator.admit(_line(4 * 10**18))


def test_a_refused_request_uses_its_number_up() -> None:
    validator = RequestValidator(1.0, 1.0, Now())
    validator.admit(_line(1))
    with pytest.raises(Refused) as refused:
        validator.admit(_line(2))
    assert (refused.value.seq, refused.value.error.code) == (2, "limited")
    with pytest.raises(Refused) as refused:
        validator.admit(_line(2))
    assert refused.value.error.code == "replayed"

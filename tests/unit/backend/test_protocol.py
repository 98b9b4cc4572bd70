"""The link as a hostile front-end VM finds it: certificates, framing, order, limits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import ssl
from dataclasses import replace

import pytest

from backend.daemon.settings import Settings
from backend.protocol.base import Done, Error
from backend.protocol.codec import MAX_LINE, Request, encode
from backend.protocol.session import SessionOpen
from backend.protocol.system import Status, StatusGet
from backend.protocol.vm import Heartbeat
from tests.unit.backend.rig import DEADLINE_S, Client, Rig, run, running, until

pytestmark = pytest.mark.usefixtures("cheap_hash")

HEARTBEAT = b'{"v":1,"seq":%d,"do":{"type":"vm.heartbeat"}}\n'


async def assert_alive(rig: Rig, source: str = "127.0.0.1") -> None:
    """The positive control after every attack: an honest client is served."""
    client = await rig.connect(source=source)
    assert isinstance(await client.ask(Heartbeat()), Done)
    client.writer.transport.abort()


BAD_LINES = {
    "empty": (b"\n", "malformed"),
    "not json": (b"hello\n", "malformed"),
    "not utf-8": (
        b'{"v":1,"seq":1,"do":{"type":"session.open","user":"\xff","password":"x","peer":"x"}}\n',
        "malformed",
    ),
    "half a surrogate": (
        b'{"v":1,"seq":1,"do":{"type":"session.open","user":"\\ud800","password":"x","peer":"x"}}\n',
        "malformed",
    ),
    "unknown type": (b'{"v":1,"seq":1,"do":{"type":"shell.run"}}\n', "malformed"),
    "no type": (b'{"v":1,"seq":1,"do":{}}\n', "malformed"),
    "extra field": (b'{"v":1,"seq":1,"do":{"type":"vm.heartbeat","x":1}}\n', "malformed"),
    "extra field outside": (b'{"v":1,"seq":1,"do":{"type":"vm.heartbeat"},"x":1}\n', "malformed"),
    "two objects": (b'{"v":1,"seq":1,"do":{"type":"vm.heartbeat"}}{}\n', "malformed"),
    "no version": (b'{"seq":1,"do":{"type":"vm.heartbeat"}}\n', "malformed"),
    "version is text": (b'{"v":"2","seq":1,"do":{"type":"vm.heartbeat"}}\n', "malformed"),
    "version 2": (b'{"v":2,"seq":1,"do":{"type":"vm.heartbeat"}}\n', "version"),
    "version 2, other shape": (b'{"v":2,"seq":1,"please":[1,{"x":null}]}\n', "version"),
    "version 0": (b'{"v":0,"seq":1,"do":{"type":"vm.heartbeat"}}\n', "version"),
    "seq zero": (b'{"v":1,"seq":0,"do":{"type":"vm.heartbeat"}}\n', "malformed"),
    "seq too large": (b'{"v":1,"seq":9223372036854775808,"do":{"type":"vm.heartbeat"}}\n', "malformed"),
    "seq enormous": (b'{"v":1,"seq":' + b"9" * 3000 + b',"do":{"type":"vm.heartbeat"}}\n', "malformed"),
    "deep nesting": (b"[" * 4000 + b"\n", "malformed"),
    "deep nesting in a field": (b'{"x":' + b"[" * 4000 + b"\n", "malformed"),
    "host name with newline": (
        b'{"v":1,"seq":1,"do":{"type":"hostname.set","hostname":"a\\n"},"token":"' + b"A" * 43 + b'"}\n',
        "malformed",
    ),
    "host name with path": (
        b'{"v":1,"seq":1,"do":{"type":"hostname.set","hostname":"../x"},"token":"' + b"A" * 43 + b'"}\n',
        "malformed",
    ),
    "long unknown field": (b'{"' + b"\\u001b" * 600 + b'":1}\n', "malformed"),
}


@pytest.mark.parametrize(("line", "code"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_gets_an_error_and_an_audit_entry_and_the_connection_goes_on(
    settings: Settings, line: bytes, code: str
) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client = await rig.connect()
            reply = await client.raw(line)
            assert isinstance(reply.result, Error)
            assert reply.result.code == code
            assert reply.result.message.isprintable()
            assert reply.result.message.isascii()
            assert len(rig.audit(event="message", outcome=code)) == 1
            assert isinstance(await client.ask(Heartbeat()), Done)

    run(test())


def test_a_line_of_the_largest_size_is_read_and_one_byte_more_is_oversized(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client = await rig.connect()
            line = HEARTBEAT % rig.next_seq()
            padded = line[:-1] + b" " * (MAX_LINE - len(line)) + b"\n"
            assert len(padded) == 4096
            assert (await client.raw(padded)).result == Done()
            reply = await client.raw(padded[:-1] + b" \n")
            assert isinstance(reply.result, Error)
            assert reply.result.code == "oversized"
            assert await client.ended() == b""
            assert len(rig.audit(event="message", outcome="oversized")) == 1
            await assert_alive(rig)

    run(test())


def test_an_endless_line_is_oversized_and_its_reply_is_not_lost_to_a_reset(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client = await rig.connect()
            # Still sending when the reply comes: had the backend closed at once, its kernel would answer with a reset.
            for _ in range(10):
                client.writer.write(b"x" * 4000)
                await client.writer.drain()
                await asyncio.sleep(0.02)
            reply = await client.reply()
            assert isinstance(reply.result, Error)
            assert reply.result.code == "oversized"
            assert await client.ended() == b""

    run(test())


def test_a_half_sent_line_is_incomplete_even_when_bytes_trickle_in(settings: Settings) -> None:
    async def test() -> None:
        async with running(replace(settings, line_s=0.3)) as rig:
            client = await rig.connect()

            async def trickle() -> None:
                while True:
                    client.writer.write(b" ")
                    await asyncio.sleep(0.05)

            task = asyncio.create_task(trickle())
            reply = await client.reply()
            assert isinstance(reply.result, Error)
            assert reply.result.code == "incomplete"
            task.cancel()
            assert await client.ended() == b""
            assert len(rig.audit(event="message", outcome="incomplete")) == 1
            await assert_alive(rig)

    run(test())


def test_hanging_up_within_a_line_is_audited(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client = await rig.connect()
            client.writer.write(b'{"v":1,')
            await client.writer.drain()
            client.writer.close()
            await until(lambda: len(rig.audit(event="message", outcome="incomplete")) == 1)
            await assert_alive(rig)

    run(test())


def test_an_idle_connection_is_closed_and_a_used_one_is_not(settings: Settings) -> None:
    async def test() -> None:
        async with running(replace(settings, idle_s=0.5)) as rig:
            idle, used = await rig.connect(), await rig.connect()

            async def use() -> None:
                while True:
                    await used.ask(Heartbeat())
                    await asyncio.sleep(0.1)

            task = asyncio.create_task(use())
            assert await idle.ended() == b""
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert isinstance(await used.ask(Heartbeat()), Done)

    run(test())


def test_a_replay_is_refused_on_every_connection_and_names_the_last_seq(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            one, two = await rig.connect(), await rig.connect()
            assert (await one.raw(HEARTBEAT % 10)).result == Done()
            for client in one, two:
                for seq in 10, 9, 1:
                    reply = await client.raw(HEARTBEAT % seq)
                    assert isinstance(reply.result, Error)
                    assert (reply.seq, reply.result.code, reply.result.last_seq) == (seq, "replayed", 10)
            assert (await two.raw(HEARTBEAT % 11)).result == Done()
            assert len(rig.audit(event="message", outcome="replayed")) == 6

    run(test())


def test_pipelined_requests_are_answered_in_order(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client = await rig.connect()
            client.writer.write(b"".join(HEARTBEAT % seq for seq in range(1, 51)))
            assert [(await client.reply()).seq for _ in range(50)] == list(range(1, 51))

    run(test())


def test_requests_are_limited_over_all_connections(settings: Settings) -> None:
    async def test() -> None:
        async with running(replace(settings, request_burst=10.0, request_rate=5.0)) as rig:
            clients = [await rig.connect() for _ in range(2)]
            results = [await clients[index % 2].ask(Heartbeat()) for index in range(12)]
            assert [type(result) for result in results[:10]] == [Done] * 10
            limited = results[-1]
            assert limited.code == "limited"
            assert 0.0 < limited.retry_after_s <= 0.2
            await asyncio.sleep(limited.retry_after_s + 0.05)
            assert isinstance(await clients[0].ask(Heartbeat()), Done)
            assert rig.audit(event="message", outcome="limited")

    run(test())


@pytest.mark.parametrize("who", ["", "stranger", "twin", "child", "backend"])
def test_another_or_no_client_certificate_is_turned_away(settings: Settings, who: str) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            # In TLS 1.3 the client is done before the server has looked at its certificate.
            try:
                client = await rig.connect(rig.context(who))
                client.writer.write(HEARTBEAT % 1)
                assert await client.ended() == b""
            except (ssl.SSLError, ConnectionError):
                pass
            await until(lambda: len(rig.audit(event="handshake", outcome="denied")) == 1)
            await assert_alive(rig)

    run(test())


def test_a_connection_from_another_address_is_closed_before_its_handshake(settings: Settings) -> None:
    async def test() -> None:
        async with running(replace(settings, peer="127.0.0.2")) as rig:
            assert await (await rig.plain()).ended() == b""
            await until(lambda: len(rig.audit(event="connection", outcome="denied")) == 1)
            await assert_alive(rig, source="127.0.0.2")

    run(test())


def test_tls_1_2_is_refused(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            context = rig.context()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(OSError):  # noqa: PT011 - an alert, or a reset that overtook it
                await rig.connect(context)
            await until(lambda: len(rig.audit(event="handshake", outcome="denied")) == 1)
            assert "PROTOCOL" in rig.audit(event="handshake")[0]["detail"]
            await assert_alive(rig)

    run(test())


def test_a_handshake_that_never_ends_is_ended_and_plain_text_is_refused(settings: Settings) -> None:
    async def test() -> None:
        async with running(replace(settings, handshake_s=0.3)) as rig:
            silent, talking = await rig.plain(), await rig.plain()
            talking.writer.write(HEARTBEAT % 1)
            await talking.ended()
            assert await silent.ended() == b""
            await until(lambda: len(rig.audit(event="handshake", outcome="denied")) == 2)
            await assert_alive(rig)

    run(test())


def test_no_session_ticket_is_handed_out(settings: Settings) -> None:
    async def test() -> None:
        async with running(settings) as rig:
            client = await rig.connect()
            await client.ask(Heartbeat())
            session = client.writer.get_extra_info("ssl_object").session
            assert session is None or not session.has_ticket

    run(test())


def test_a_connection_flood_leaves_eight_and_frees_their_places(settings: Settings) -> None:
    async def test() -> None:
        async with running(replace(settings, handshake_s=1.0)) as rig:
            # Half of the places are taken by connections that never begin their handshake.
            kept = [await rig.plain() for _ in range(4)]
            honest = [await rig.connect() for _ in range(4)]
            for _ in range(60):
                over = await rig.plain()
                assert await over.ended() == b""
            assert isinstance(await honest[0].ask(Heartbeat()), Done)
            assert 1 <= len(rig.audit(event="connection", outcome="limited")) <= 51
            for client in kept:
                assert await client.ended() == b""
            await assert_alive(rig)

    run(test())


def test_new_connections_are_slowed(settings: Settings) -> None:
    async def test() -> None:
        async with running(replace(settings, connect_burst=4.0, connect_rate=10.0)) as rig:
            begin = asyncio.get_running_loop().time()
            for _ in range(8):
                client = await rig.connect()
                client.writer.transport.abort()
            assert asyncio.get_running_loop().time() - begin >= 0.3

    run(test())


def test_a_peer_that_does_not_read_is_cut_off(settings: Settings) -> None:
    async def test() -> None:
        async with running(replace(settings, request_burst=1e9, request_rate=1e9, write_s=0.3)) as rig:
            client = await rig.connect()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            # Replies of some 200 bytes to requests of 2: the buffers on the way back fill first.
            flood = b"[\n" * 3000

            async def send() -> None:
                while True:
                    client.writer.write(flood)
                    await client.writer.drain()

            # TimeoutError is neither.
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await asyncio.wait_for(send(), DEADLINE_S)
            await assert_alive(rig)

    run(test())


def test_random_bytes_do_not_bring_it_down(settings: Settings) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    dice = random.Random(seed)
    good = encode(Request(v=1, seq=5, do=SessionOpen(user="admin", password="x", service="ssh", address="::")))

    def mutant() -> bytes:
        kind = dice.randrange(4)
        if kind == 0:
            return dice.randbytes(dice.randrange(1, 300)) + b"\n"
        line = bytearray(good)
        for _ in range(dice.randrange(1, 6)):
            place = dice.randrange(len(line))
            if kind == 1:
                line[place] = dice.randrange(256)
            elif kind == 2:
                line[place : place + dice.randrange(1, 9)] = b""
            else:
                line[place:place] = dice.choice([b"{", b"[", b'"', b"\\", b"\0", b"1e999", b"null", b"\xc3"])
            if not line:
                return b"\n"
        return bytes(line)

    async def converse(client: Client) -> None:
        for _ in range(40):
            client.writer.write(mutant())
            await client.writer.drain()
        client.writer.write_eof() if client.writer.can_write_eof() else client.writer.close()
        await client.ended()

    async def test() -> None:
        async with running(replace(settings, line_s=0.2, connections=64)) as rig:
            operator, token = await rig.operator()
            for _ in range(12):
                with_tls = await rig.connect() if dice.random() < 0.8 else await rig.plain()
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await converse(with_tls)
                with_tls.writer.transport.abort()
                await operator.ask(Heartbeat())  # the operator's connection is not idle
            rig._seq = 2**61  # the mutants have used up some numbers
            status = await operator.ask(StatusGet(), token)
            assert isinstance(status, Status), f"seed {seed}: {status}"

    run(test())

"""A certificate that the host has renewed is used without a restart; one that cannot be used changes nothing."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from frontend_vm import app
from tests.unit.frontend_vm.keys import make_configuration, make_identity, sign_again
from tests.unit.frontend_vm.rig import CLIENT, DEADLINE, running, until


async def served(port: int) -> str:
    _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port, ssl=CLIENT), DEADLINE)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return ssl.DER_cert_to_PEM_cert(der)


def test_new_connections_see_the_new_certificate_and_old_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "CERTIFICATE_INTERVAL", 0.05)
    make_configuration(tmp_path)
    make_identity(tmp_path, "other", "sallyport")
    old, renewed = (tmp_path / "web.crt").read_text(), sign_again(tmp_path, "web", "edge-7")

    async def scenario() -> None:
        async with running(tmp_path) as rig:
            port = rig.frontend.web_port
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=CLIENT)
            for useless in ("", "x", (tmp_path / "other.crt").read_text()):
                rig.backend.certificate = useless
                asked = rig.backend.certificate_requests
                await until(lambda asked=asked: rig.backend.certificate_requests > asked + 1)  # type: ignore[misc]
                assert await served(port) == old
            rig.backend.certificate = renewed
            await until(lambda: (tmp_path / "web.crt").read_text() == renewed)  # for the process's next start
            assert await served(port) == renewed
            writer.write(b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in await asyncio.wait_for(reader.readline(), DEADLINE)
            writer.transport.abort()

    asyncio.run(scenario())

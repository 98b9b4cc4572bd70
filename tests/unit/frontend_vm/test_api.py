"""The REST API and the page: who gets in, what is refused, and what reaches the backend."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from pathlib import Path

import pytest

from frontend_vm import api, problem, web
from frontend_vm.protocol.session import SessionOpen
from frontend_vm.protocol.system import HostnameSet
from tests.unit.frontend_vm.rig import CLIENT, DEADLINE, error_code, running, until


def test_login_gives_a_cookie_only_for_this_site_and_no_script(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            response = await rig.log_in()
            assert response.code == 200
            assert json.loads(response.body) == {"user": "admin", "idle_s": 600}
            name, *attributes = response.headers["Set-Cookie"].split("; ")
            assert name.startswith("__Host-session=")
            assert set(attributes) == {"HttpOnly", "Path=/", "SameSite=Strict", "Secure"}
            (token,) = rig.backend.tokens
            assert token not in name, "the backend's token stays in the VM"
            opened = rig.backend.requests[0]
            assert isinstance(opened, SessionOpen)
            assert (opened.service, opened.address) == ("https", "127.0.0.1")
            assert (await rig.call("GET", "/api/v1/status")).code == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("password", ["wrong", "x" * 129, ""])
def test_wrong_password_is_denied(configuration: Path, password: str) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            response = await rig.log_in(password)
            assert (response.code, error_code(response)) == (401, "denied")
            assert "Set-Cookie" not in response.headers

    asyncio.run(scenario())


def test_limited_login_says_when_to_come_back(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            rig.backend.limited = 63.2
            response = await rig.log_in()
            assert (response.code, error_code(response)) == (429, "limited")
            assert response.headers["Retry-After"] == "64"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/v1/status", None),
        ("GET", "/api/v1/ports", None),
        ("PUT", "/api/v1/hostname", {"hostname": "edge"}),
        ("PUT", "/api/v1/password", {"old": "x", "new": "y" * 12}),
        ("POST", "/api/v1/reboot", None),
    ],
)
def test_without_a_session_nothing_reaches_the_backend(
    configuration: Path, method: str, path: str, body: object
) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            for cookie in ("", "__Host-session=" + "A" * 43):
                rig.cookie = cookie
                response = await rig.call(method, path, body)
                assert (response.code, error_code(response)) == (401, "denied")
            assert rig.backend.requests == []
            await rig.log_in()  # the control: with one it does
            assert (await rig.call(method, path, body)).code in (200, 202, 403)
            assert len(rig.backend.requests) == 2

    asyncio.run(scenario())


def test_requests_of_other_sites_are_refused(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            await rig.log_in()
            for headers in (
                {"Sec_Fetch_Site": "cross-site"},
                {"Sec_Fetch_Site": "same-site"},
                {"Origin": "https://evil.example"},
                {"Origin": "null"},
                {"Sec_Fetch_Site": "same-origin", "Origin": "https://evil.example"},
                {"Origin": rig.origin.replace("https", "http")},
            ):
                response = await rig.call("POST", "/api/v1/reboot", **headers)
                assert (response.code, error_code(response)) == (403, "forbidden"), headers
            assert "SystemReboot" not in rig.instructions()
            response = await rig.call("POST", "/api/v1/reboot", Sec_Fetch_Site="same-origin", Origin=rig.origin)
            assert response.code == 202
            assert "SystemReboot" in rig.instructions()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b'{"hostname": "edge"}', "text/plain", (415, "media_type")),
        (b"hostname=edge", "application/x-www-form-urlencoded", (415, "media_type")),
        (b'{"hostname": "edge", "force": true}', "application/json", (400, "malformed")),
        (b'{"hostname": ["edge"]}', "application/json", (400, "malformed")),
        (b'{"hostname": "Edge"}', "application/json", (400, "malformed")),
        (b'{"hostname": "edge\\n"}', "application/json", (400, "malformed")),
        (b'{"hostname": "-edge"}', "application/json", (400, "malformed")),
        (b'{"hostname": "' + b"a" * 64 + b'"}', "application/json", (400, "malformed")),
        (b'{"hostname": "\xff"}', "application/json", (400, "malformed")),
        (b"[" * 4000, "application/json", (400, "malformed")),
        (b"", "application/json", (400, "malformed")),
        (b" " * 4097, "application/json", (413, "oversized")),
    ],
)
def test_bad_bodies(configuration: Path, body: bytes, kind: str, expected: tuple[int, str]) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            await rig.log_in()
            response = await rig.call("PUT", "/api/v1/hostname", body, Content_Type=kind)
            assert (response.code, error_code(response)) == expected
            assert rig.instructions() == ["SessionOpen"]

    asyncio.run(scenario())


def test_every_answer_carries_the_security_headers(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            for method, path, status in (
                ("GET", "/", 200),
                ("GET", "/app.js", 200),
                ("GET", "/style.css", 200),
                ("GET", "/favicon.svg", 200),
                ("GET", "/words.json", 200),
                ("HEAD", "/", 200),
                ("GET", "/api/v1/health", 200),
                ("GET", "/api/v1/status", 401),
                ("PATCH", "/api/v1/status", 405),
                ("HEAD", "/api/v1/health", 200),
                ("GET", "/api/v1/none", 404),
                ("GET", "/static/../../etc/passwd", 404),
                ("GET", "/none", 404),
                ("POST", "/", 405),
            ):
                response = await rig.call(method, path)
                assert response.code == status, (method, path)
                for name, value in problem.HEADERS.items():
                    assert response.headers[name] == value, (method, path, name)
                assert "Server" not in response.headers
                assert b"ornado" not in response.body
                if path.startswith("/api"):
                    assert response.headers["Cache-Control"] == "no-store"
                    assert response.headers["Content-Type"] == "application/json"

    asyncio.run(scenario())


def test_page_needs_nothing_that_its_policy_forbids() -> None:
    page = (web.STATIC / "index.html").read_text()
    assert "style=" not in page
    assert "<script>" not in page
    assert not re.search(r"<[^>]*\son[a-z]+=", page), "no inline handlers"
    script = (web.STATIC / "app.js").read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in script
    for name in ("index.html", "app.js", "style.css", "words.json"):
        assert "//" not in re.sub(r"(?m)(^|\s)//.*", "", (web.STATIC / name).read_text()), "nothing from outside"


def test_status_ports_hostname_reboot_and_logout(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            await rig.log_in()
            response = await rig.call("PUT", "/api/v1/hostname", {"hostname": "edge-7"})
            assert (response.code, json.loads(response.body)) == (200, {"hostname": "edge-7"})
            assert rig.backend.requests[-1] == HostnameSet(hostname="edge-7")
            status = json.loads((await rig.call("GET", "/api/v1/status")).body)
            assert (status["hostname"], status["machine"]["accelerator"]) == ("edge-7", "kvm")
            ports = json.loads((await rig.call("GET", "/api/v1/ports")).body)
            assert ports["ports"][0]["verdicts"][0]["name"] == "rx_passed"
            assert (await rig.call("POST", "/api/v1/reboot")).code == 202
            response = await rig.call("DELETE", "/api/v1/session")
            assert response.code == 200
            assert "Max-Age=0" in response.headers["Set-Cookie"] or "expires=" in response.headers["Set-Cookie"]
            assert (await rig.call("GET", "/api/v1/status")).code == 401
            await until(lambda: not rig.backend.tokens)

    asyncio.run(scenario())


def test_password_change(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            await rig.log_in()
            change = {"old": "wrong", "new": "a better password"}
            response = await rig.call("PUT", "/api/v1/password", change)
            assert (response.code, error_code(response)) == (403, "denied")
            response = await rig.call("PUT", "/api/v1/password", {"old": rig.backend.password, "new": "short"})
            assert (response.code, error_code(response)) == (400, "malformed")
            assert (await rig.call("GET", "/api/v1/status")).code == 200, "the session is still good"
            change["old"] = rig.backend.password
            assert (await rig.call("PUT", "/api/v1/password", change)).code == 200
            assert rig.backend.password == "a better password"

    asyncio.run(scenario())


def test_session_that_the_backend_ended_is_forgotten(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            await rig.log_in()
            rig.backend.tokens.clear()
            assert (await rig.call("GET", "/api/v1/status")).code == 401
            asked = len(rig.backend.requests)
            assert (await rig.call("GET", "/api/v1/status")).code == 401
            assert len(rig.backend.requests) == asked, "the second one was answered here"

    asyncio.run(scenario())


def test_idle_session_ends_here_too(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig:
            rig.backend.idle_s = 0
            await rig.log_in()
            await asyncio.sleep(0.01)
            assert (await rig.call("GET", "/api/v1/status")).code == 401

    asyncio.run(scenario())


def test_sessions_are_bounded_and_new_ones_still_possible(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_SESSIONS", 4)

    async def scenario() -> None:
        async with running(configuration) as rig:
            await rig.log_in()
            first, rig.cookie = rig.cookie, ""
            for _ in range(4):
                assert (await rig.log_in()).code == 200
                last, rig.cookie = rig.cookie, ""
            await until(lambda: len(rig.backend.tokens) == 4)
            rig.cookie = first
            assert (await rig.call("GET", "/api/v1/status")).code == 401
            rig.cookie = last
            assert (await rig.call("GET", "/api/v1/status")).code == 200

    asyncio.run(scenario())


def test_silent_connection_is_closed(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "IDLE_TIMEOUT", 0.3)

    async def scenario() -> None:
        async with running(configuration) as rig:
            plain, plain_writer = await asyncio.open_connection("127.0.0.1", rig.frontend.web_port)
            idle, idle_writer = await tls_connection(rig.frontend.web_port)
            reader, writer = await tls_connection(rig.frontend.web_port)
            writer.write(b"GET / HTTP/1.1\r\nHost:")
            assert await asyncio.wait_for(plain.read(1), DEADLINE) == b"", "no TLS handshake"
            assert (await asyncio.wait_for(reader.readline(), DEADLINE)).startswith(b"HTTP/1.1 408 "), "half a head"
            assert await asyncio.wait_for(idle.read(1), DEADLINE) == b"", "nothing at all"
            for each in (plain_writer, idle_writer, writer):
                each.transport.abort()

    asyncio.run(scenario())


def test_tls_is_modern(configuration: Path) -> None:
    context = web.server_context(configuration)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert names
    assert all("GCM" in name or "CHACHA20" in name or name.startswith("TLS_") for name in names)


async def tls_connection(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, ssl=CLIENT)

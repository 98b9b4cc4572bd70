"""One password, whichever way it is set and whichever way it comes."""

from __future__ import annotations

import asyncio
import json
import random
import unicodedata
from pathlib import Path

import asyncssh
import paramiko
import pytest

from backend.daemon import password_form
from tests.unit.frontend_vm.fake_backend import PASSWORD
from tests.unit.frontend_vm.rig import paramiko_login, running, set_password

PASSWORDS = [
    "correct horse²", "corre\u0301ct horse", "corréct horse", "correct\u00a0horse\u3000x", "correct horse 🐎🔋",
    "סיסמה ארוכה 123", "abc كلمة السر def", "₹₽ẞ correct horse", "ﬁsh ①②③ Ⅳ ㎏ \uff46\uff55\uff4c\uff4c",
    "\u1100\u1161\u11a8 correct horse", "  spaces at ends  ", "q\u0307\u0323 correct horse", "\u0130stanbul \u0131Ii ß",
    "".join(map(chr, range(33, 127))), "\U0001f40e" * 128,
]  # fmt: skip


def some_passwords(number: int) -> list[str]:
    """Random strings of all planes that may be set, beside those above."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    found: list[str] = []
    planes = [char for char in map(chr, range(0x20000)) if not password_form.objection(f"correct horse{char}")]
    while len(found) < number:
        text = "".join(rng.choices(planes, k=rng.randrange(12, 60)))
        if not password_form.objection(text):
            found.append(text)
    return found


def test_a_password_set_by_one_way_works_by_all(configuration: Path) -> None:
    """Set over the API or at the prompt; log in over the API, by asyncssh and by paramiko, in either Unicode form."""

    async def scenario() -> None:
        async with running(configuration) as rig:
            await rig.log_in()
            for number, password in enumerate([*PASSWORDS, *some_passwords(25)]):
                if number % 2:
                    change = {"old": rig.backend.password, "new": password}
                    assert (await rig.call("PUT", "/api/v1/password", change)).code == 200, ascii(password)
                else:
                    async with await rig.ssh(rig.backend.password) as connection:
                        said = await set_password(connection, rig.backend.password, password)
                        assert "was changed." in said, ascii(password)
                assert rig.backend.password == password
                for form in {password, *(unicodedata.normalize(form, password) for form in ("NFC", "NFD"))}:
                    assert (await rig.log_in(form)).code == 200, ascii(form)
                    async with await rig.ssh(form):
                        pass
                    (await asyncio.to_thread(paramiko_login, rig.frontend.ssh_port, form)).close()
            for wrong in "correct horse2", "correct horse\ufffd", "x" * 300:
                assert (await rig.log_in(wrong)).code == 401, "the control"
                with pytest.raises(asyncssh.PermissionDenied):
                    await rig.ssh(wrong)
                with pytest.raises(paramiko.AuthenticationException):
                    await asyncio.to_thread(paramiko_login, rig.frontend.ssh_port, wrong)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("short", "12 to 128"),
        (f"correct horse{chr(0x200D)}", "U+200D"),
        ("e\u0301" * 8, "this one has 8"),
        ("x" * 300, "12 to 128"),
    ],
)
def test_a_password_that_cannot_be_is_refused_with_the_same_reason(
    configuration: Path, password: str, why: str
) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, await rig.ssh() as connection:
            said = await set_password(connection, PASSWORD, password)
            assert why in said
            assert "nothing was changed" in said
            await rig.log_in()
            response = await rig.call("PUT", "/api/v1/password", {"old": PASSWORD, "new": password})
            assert response.code == 400
            assert why in json.loads(response.body)["error"]["message"]
            assert rig.backend.password == PASSWORD

    asyncio.run(scenario())

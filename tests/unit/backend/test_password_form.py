"""Which strings may become a password, and in which form they are compared."""

from __future__ import annotations

import asyncio
import random
import sys
import unicodedata
from pathlib import Path

import pytest

from backend.daemon import password_form
from backend.daemon.credential import Passwords
from backend.daemon.throttle import Rates, Throttle
from backend.daemon.worker import Worker
from backend.protocol.fields import MAX_PASSWORD, MAX_PREPARED
from backend.protocol.peers import Peer
from backend.protocol.refusal import Refused

HERE = Peer.parse("192.0.2.7")
LETTERS = "correct horse"

SAME = {
    "accents apart": ("motörhead ärger", "moto\u0308rhead a\u0308rger"),
    "Hangul": ("각 correct horse", "\u1100\u1161\u11a8 correct horse"),
    "singletons": ("Å correct horse", "\u212b correct horse"),
    "order of marks": ("q\u0323\u0307 correct horse", "q\u0307\u0323 correct horse"),
    "no-break space": ("correct horse battery", "correct\u00a0horse\u00a0battery"),
    "ideographic space": ("correct horse battery", "correct\u3000horse\u2003battery"),
}
OTHER = {
    "superscript": ("correct horse 2", "correct horse ²"),
    "ligature": ("correct fish 12", "correct ﬁsh 12"),
    "full width": ("correct horse", "\uff43orrect horse"),
    "case": ("correct horse", "Correct horse"),
    "sharp s": ("correct strasse", "correct straße"),
    "spaces count": ("correct horse", "correct horse "),
}
FINE = {
    "emoji": "correct horse 🐎🔋",
    "Hebrew and digits": "סיסמה ארוכה 123",
    "Arabic in Latin": "abc كلمة السر def",
    "newer than Unicode 3.2": "₹₽ẞ correct horse",
    "superscript": "correct horse²",
    "spaces at both ends": "  correct horse  ",
    "no-break space": "correct\u00a0horse",
    "all of ASCII": "".join(map(chr, range(32, 127))),
    "the longest": "\U0001f40e" * MAX_PREPARED,
}
REFUSED = {
    "short": ("correct hor", "12 to 128"),
    "short once it is whole": ("e\u0301" * 7, "this one has 7"),
    "long": ("x" * (MAX_PREPARED + 1), "this one has 129"),
    "accents that take too much": ("ᾂ" * 100, "fewer accents"),
    "NUL": (f"{LETTERS}\0", "U+0000"),
    "tab": (f"{LETTERS}\t", "U+0009"),
    "DEL": (f"{LETTERS}\x7f", "U+007F"),
    "C1": (f"{LETTERS}\x9b", "U+009B"),
    "zero width joiner": (f"{LETTERS}\u200d", "U+200D"),
    "right-to-left override": (f"{LETTERS}\u202e", "U+202E"),
    "byte order mark": (f"\ufeff{LETTERS}", "U+FEFF"),
    "line separator": (f"{LETTERS}\u2028", "U+2028"),
    "private use": (f"{LETTERS}\ue000", "U+E000"),
    "unassigned": (f"{LETTERS}\U000e0fff", "U+E0FFF"),
    "noncharacter": (f"{LETTERS}\uffff", "U+FFFF"),
    "surrogate": (f"{LETTERS}\ud800", "U+D800"),
    "bytes that were not UTF-8": (f"{LETTERS}\ufffd", "UTF-8"),
}


@pytest.mark.parametrize(("one", "two"), SAME.values(), ids=SAME.keys())
def test_the_same_to_a_reader_is_the_same(one: str, two: str) -> None:
    assert one != two
    assert password_form.prepare(one) == password_form.prepare(two)
    assert password_form.objection(one) == password_form.objection(two) == ""


@pytest.mark.parametrize(("one", "two"), OTHER.values(), ids=OTHER.keys())
def test_other_characters_are_other_passwords(one: str, two: str) -> None:
    assert password_form.prepare(one) != password_form.prepare(two)


@pytest.mark.parametrize("text", FINE.values(), ids=FINE.keys())
def test_what_people_type_may_be_set(text: str) -> None:
    assert password_form.objection(text) == ""


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_typed_alike_everywhere_is_refused_with_a_reason(text: str, why: str) -> None:
    assert why in password_form.objection(text)


def test_the_form_is_final_for_random_characters_and_strings_of_all_planes() -> None:
    """Preparing what was prepared changes nothing, and every canonical form of what may be set is the same password."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    print(f"seed {seed}")
    planes = [chr(number) for number in range(sys.maxunicode + 1)]
    marks = [char for char in planes if unicodedata.combining(char)]
    strings = [f"{LETTERS}{char}" for char in rng.sample(planes, 30_000)]
    mixed = planes + 100 * marks
    strings += ["".join(rng.choices(mixed, k=rng.randrange(1, 40))) for _ in range(1500)]
    may_be_set = 0
    for text in strings:
        prepared = password_form.prepare(text)
        assert password_form.prepare(prepared) == prepared, ascii(text)
        if not password_form.objection(text):
            may_be_set += 1
            for form in "NFC", "NFD":
                other = unicodedata.normalize(form, text)
                assert password_form.prepare(other) == prepared, ascii(text)
                assert len(other) <= MAX_PASSWORD
    assert may_be_set > 3000, "the control"


@pytest.mark.usefixtures("cheap_hash")
def test_a_password_is_found_in_any_form_and_set_in_none_that_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        passwords = Passwords(tmp_path / "credential.json", Worker("disk"), Worker("cpu"), Throttle(
            Rates(known=(1e6, 1e6), new=(1e6, 1e6), common=(1e6, 1e6))
        ))  # fmt: skip
        present = await passwords.start()
        assert present
        for one, two in SAME.values():
            await passwords.change(present, two, HERE)
            await passwords.check("admin", one, HERE)
            await passwords.check("admin", two, HERE)
            present = one
        for text, _ in REFUSED.values():
            with pytest.raises(Refused) as refused:
                await passwords.change(present, text, HERE)
            assert refused.value.error.code == "malformed"
        for one, two in OTHER.values():
            await passwords.change(present, one, HERE)
            with pytest.raises(Refused) as refused:
                await passwords.check("admin", two, HERE)
            assert refused.value.error.code == "denied"
            await passwords.check("admin", one, HERE)
            present = one
        with pytest.raises(Refused) as refused:
            await passwords.check("admin", "\ud800", HERE)
        assert refused.value.error.code == "denied"

    asyncio.run(test())

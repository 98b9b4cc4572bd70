"""The report says what was found, escapes what is hostile and is never half written."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from playwright.async_api import async_playwright
from rich.console import Console

from proof.report.json_form import from_json, to_json
from proof.report.page import to_html
from proof.report.publish import publish, write_report
from proof.report.report import GROUPS, FileDigest, Report, digest_file
from proof.report.summary import print_summary
from proof.result import EXIT_HOLE, EXIT_NOT_TESTED, EXIT_SEALED, Result, Verdict, exit_code, reason
from rootfs.base.errors import SallyportError

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>alert(1)</script>[red]\x00\x1b[31m\ud800\u202e&"


def result(verdict: Verdict, name: str = "probe", text: str = "evidence", group: str = "host") -> Result:
    return Result(group, name, "tried", verdict, text, "control", 0.5, (text,))


def report(*results: Result) -> Report:
    return Report(list(results), "a.img", "ab" * 32, 7, "2026-01-01T00:00:00+00:00", 3.0, "invoke verify")


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["sealed", "control"], EXIT_SEALED),
        (["sealed", "hole", "not-tested"], EXIT_HOLE),
        (["sealed", "not-tested"], EXIT_NOT_TESTED),
        (["control"], EXIT_NOT_TESTED),
        ([], EXIT_NOT_TESTED),
    ],
)
def test_exit_codes(verdicts: list[str], code: int) -> None:
    assert exit_code([result(Verdict(verdict)) for verdict in verdicts]) == code


def test_the_files(tmp_path: Path) -> None:
    hostile = result(Verdict.HOLE, text=HOSTILE)
    paths = write_report(
        report(hostile, result(Verdict.NOT_TESTED, "b"), result(Verdict.SEALED, "c")), tmp_path / "out"
    )
    body = json.loads(paths["json"].read_text())
    assert (body["verdict"], body["exit_code"], body["seed"], len(body["results"])) == ("hole", 3, 7, 3)
    root = ET.fromstring(paths["xml"].read_text())
    assert [len(root.findall(f".//testcase/{kind}")) for kind in ("failure", "error")] == [1, 1]
    page = paths["html"].read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search("[\x00\x1b\u202e]", page)
    assert "Hole found" in page
    assert "http" not in page.replace("http-equiv", "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["junit.xml", "report.html", "report.json"]


def test_a_failing_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(report(result(Verdict.SEALED)), tmp_path)
    before = (tmp_path / "report.json").read_text()
    monkeypatch.setattr("proof.report.whole_file.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(report(result(Verdict.HOLE)), tmp_path)
    assert (tmp_path / "report.json").read_text() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_the_summary_shows_hostile_text_as_text() -> None:
    out = io.StringIO()
    hostile = report(result(Verdict.HOLE, text="[red]x[/red]"), result(Verdict.HOLE, "a\x1b]0;b", HOSTILE))
    print_summary(hostile, Console(file=out, width=120))
    assert "[red]x[/red]" in out.getvalue()
    assert not re.search("[\x00\x1b\u202e\ud800]", out.getvalue())
    assert out.getvalue().rstrip().endswith("HOLE after 3 s")


def test_why_a_run_is_not_sealed() -> None:
    holes = [result(Verdict.HOLE, f"h{n}") for n in range(10)]
    assert reason([result(Verdict.SEALED)]) == ""
    assert reason([*holes, result(Verdict.NOT_TESTED)]).endswith("host/h7 and 2 more")
    assert reason([result(Verdict.SEALED), result(Verdict.NOT_TESTED, "n")]) == "could not test host/n"
    assert reason([result(Verdict.CONTROL)]) == reason([]) == "no negative probe ran"


FULL = replace(
    report(result(Verdict.HOLE, text="\x00\x1b é \u202e"), result(Verdict.SEALED, "b"), result(Verdict.CONTROL, "c")),
    versions={"scapy": "2"},
    facts={"boot": "1 s"},
    captures=(FileDigest("port.pcapng", 12, "cd" * 32),),
)


def test_json_comes_back_as_it_was() -> None:
    assert from_json(to_json(FULL)) == FULL
    assert from_json(to_json(FULL).encode()) == FULL
    # Half a surrogate pair is no text: the only thing that is lost.
    again = from_json(to_json(report(result(Verdict.HOLE, text="a\ud800"))))
    assert again.results[0].evidence == "a?"


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("verdict",), "sealed", "its results say hole"),
        (("exit_code",), 0, "its results say hole"),
        (("results", 0, "verdict"), "sealed", "its results say sealed"),
        (("results", 0, "verdict"), "fine", "verdict"),
        (("results", 0, "duration"), -1, "duration"),
        (("results", 0, "frames"), "abc", "frames"),
        (("results", 0, "more"), 1, "more"),
        (("results", 0, "name"), "", "name"),
        (("captures", 0, "sha256"), "CD" * 32, "sha256"),
        (("sha256",), "ab" * 32 + "\n", "sha256"),
        (("seed",), "7", "seed"),
        (("seed",), True, "seed"),
        (("started",), "2026-01-01T00:00:00", "time zone"),
        (("started",), "yesterday", "yesterday"),
        (("more",), 1, "more"),
        (("facts",), {"a": 1}, "facts"),
    ],
)
def test_a_changed_json_is_refused(path: tuple[Any, ...], value: Any, why: str) -> None:
    body = place = json.loads(to_json(FULL))
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(SallyportError, match=why) as caught:
        from_json(json.dumps(body))
    assert caught.value.hint


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "NaN", "\ud800", '{"x":' * 200_000, to_json(FULL)[:-9], b"\xff", " " * (65 << 20)]
)
def test_what_is_no_report_is_refused(text: str | bytes) -> None:
    with pytest.raises(SallyportError, match="no report of a proof"):
        from_json(text)


@pytest.mark.parametrize(
    ("command", "repeat"),
    [
        ("invoke verify", "invoke verify --seed 7"),
        ("invoke verify --seed 5 'a b.img' --json", "invoke verify 'a b.img' --json --seed 7"),
        ("invoke verify --seed=5 --quick", "invoke verify --quick --seed 7"),
        ("invoke verify 'unfinished", "invoke verify 'unfinished"),
    ],
)
def test_the_command_that_repeats_a_run(command: str, repeat: str) -> None:
    again = replace(FULL, command=command)
    assert again.repeat == repeat
    assert f"<pre>{repeat.replace(chr(39), '&#39;')}</pre>" in to_html(again)


def test_a_digest_is_of_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(bytes(3 << 20) + b"x")
    assert digest_file(path) == FileDigest("a.pcapng", (3 << 20) + 1, hashlib.sha256(bytes(3 << 20) + b"x").hexdigest())


def test_a_device_has_no_image(tmp_path: Path) -> None:
    device = replace(FULL, sha256="", captures=())
    assert from_json(to_json(device)) == device
    assert "<dd>not known: a device was probed</dd>" in to_html(device)
    with pytest.raises(SallyportError, match="no image is known"):
        publish(device, tmp_path, tmp_path / "key.pem")
    assert (tmp_path / "report.html").exists()


def test_publishing_binds_the_captures_of_this_run_alone(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key.write_bytes(pem)
    key.chmod(0o600)
    for name in ("new.pcapng", "old.pcapng"):
        (tmp_path / name).write_bytes(b"frames")
    os.utime(tmp_path / "old.pcapng", (1_700_000_000, 1_700_000_000))
    run = replace(FULL, captures=(), started="2024-01-01T00:00:00+00:00")
    paths = publish(run, tmp_path, key)
    assert [item.name for item in from_json(paths["json"].read_text()).captures] == ["new.pcapng"]
    signed = base64.b64decode(json.loads(paths["statement"].read_text())["payload"])
    bound = [item["name"] for item in json.loads(signed)["predicate"]["configuration"]]
    assert bound == ["junit.xml", "new.pcapng", "report.html", "report.json"]
    assert "statement" not in publish(run, tmp_path)
    assert not paths["statement"].exists()


def picture(page: str) -> ET.Element:
    return ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_has_its_place_in_the_picture(group: str) -> None:
    """A hole in one group reddens its own mark and nothing else; a group that did not run is neither good nor bad."""
    others = [result(Verdict.SEALED, group=name) for name in GROUPS if name not in (group, "tree")]
    page = to_html(report(result(Verdict.HOLE, group=group), *others))
    marks = [node for node in picture(page).iter() if "mark" in node.get("class", "")]
    assert len(marks) == len(GROUPS)
    assert [node.get("class", "").split()[-1] for node in marks].count("hole") == 1
    assert [(node.text or "").strip()[0] for node in marks].count("✗") == 1
    unprobed = [(node.text or "").strip() for node in marks if "none" in node.get("class", "")]
    assert unprobed == ([] if group == "tree" else ["\N{EN DASH} files of the image"])
    assert ("Not part of this run" in page) == (group != "tree")


def test_what_is_long_folds_and_what_is_wrong_does_not() -> None:
    fine = [result(Verdict.SEALED, f"fine-{n}") for n in range(9)]
    page = to_html(report(*fine))
    assert "<summary>9 probes, all in order</summary>" in page
    page = to_html(report(*fine, result(Verdict.HOLE, "wrong"), result(Verdict.NOT_TESTED, "blind")))
    open_part = re.sub(r"<details>.*?</details>", "", page, flags=re.S)
    rows = re.findall(r"<small>(.*?)</small>", open_part)
    assert rows == ["wrong", "blind"]
    assert len(re.findall(r"<small>", page)) == 11
    assert "<details>" not in to_html(report(*fine[:5]))


def test_every_link_of_the_page_has_its_place_whatever_the_names() -> None:
    """Names are not ours to choose: two may be the same, or be what no anchor can be."""
    names = ["a", "a", "x y", '"><b', "#"]
    page = to_html(report(*[result(Verdict.HOLE, name, group=group) for name in names for group in ("host", '"<')]))
    anchors, links = re.findall(r' id="([^"]*)"', page), re.findall(r'href="#([^"]*)"', page)
    assert len(anchors) == len(set(anchors))
    assert set(links) < set(anchors)
    assert len(set(links)) == 12  # ten rows, two groups


def test_the_time_of_each_group() -> None:
    results = [replace(result(Verdict.SEALED, group=name), duration=2.0) for name in ("host", "tree")]
    watched = replace(result(Verdict.SEALED, group="passive"), duration=9.0)
    page = to_html(replace(report(*results, watched), duration=9.0))
    widths = re.findall(r'class="(\S+)" style="width: ([\d.]+)%"', page)
    assert widths == [("sealed", "40.00"), ("sealed", "40.00"), ("none", "100.00")]


@pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium")
@pytest.mark.parametrize("width", [1100, 380])
def test_the_page_in_a_browser(width: int, tmp_path: Path) -> None:
    """Nothing is fetched, nothing is complained about, nothing runs out of the page or of its box in the picture."""
    results = [result(Verdict.SEALED, f"probe-{n}", "word " * 30, group) for group in GROUPS for n in range(9)]
    results.append(result(Verdict.HOLE, "long-" * 30, HOSTILE + "x" * 300))
    page_file = write_report(replace(FULL, results=results), tmp_path)["html"]

    async def look() -> tuple[list[str], int, list[str]]:
        said: list[str] = []
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
            page = await browser.new_page(viewport={"width": width, "height": 900})
            page.on("console", lambda message: said.append(message.text))
            page.on("request", lambda request: said.append(request.url))
            await page.goto(page_file.as_uri())
            wide = await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            across = await page.evaluate(ACROSS)
            await browser.close()
        return said, wide, across

    said, wide, across = asyncio.run(look())
    assert said == [page_file.as_uri()]
    assert wide <= 0
    assert across == []


ACROSS = """() => {
    const boxed = (query) => [...document.querySelectorAll(query)].map((e) => [e.textContent.trim(), e.getBBox()]);
    const texts = boxed("svg text"), boxes = boxed("svg rect");
    const apart = (a, b, side, size) => a[side] + a[size] <= b[side] || b[side] + b[size] <= a[side];
    const inside = (a, b, side, size) => a[side] >= b[side] && a[side] + a[size] <= b[side] + b[size];
    const clear = (a, b) => apart(a, b, "x", "width") || apart(a, b, "y", "height");
    const within = (a, b) => inside(a, b, "x", "width") && inside(a, b, "y", "height");
    return texts.flatMap(([text, a], i) => [
        ...texts.slice(i + 1).filter(([, b]) => !clear(a, b)),
        ...boxes.filter(([, b]) => !clear(a, b) && !within(a, b)),
    ].map(([other]) => text + " / " + other));
}"""
"""Texts of the picture that run into another one or over the edge of a box."""

"""The port's card of the page, in a real browser: what it shows, on large and small screens, and what it survives."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from frontend_vm.protocol.port import Counter, Fault
from frontend_vm.protocol.system import Storage
from frontend_vm.words import WORDS
from tests.unit.frontend_vm.fake_backend import BRIDGE_ONLY, PASSWORD
from tests.unit.frontend_vm.rig import DEADLINE, Rig, running

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium")

TABLE = """() => [...document.querySelectorAll(".verdicts tbody tr")].map((row) => ({
    label: row.querySelector(".label").textContent,
    name: row.querySelector("code")?.textContent ?? "",
    meaning: row.querySelector(".meaning")?.textContent ?? "",
    title: row.querySelector("th").title,
    seen: (row.querySelector(".meaning")?.clientWidth ?? 0) > 1,
    cells: [...row.querySelectorAll("td")].map((cell) => cell.children[0].textContent),
    bytes: [...row.querySelectorAll("td")].map((cell) => cell.children[1].textContent),
    titles: [...row.querySelectorAll("td")].map((cell) => cell.title),
    kind: row.className,
    colour: getComputedStyle(row.querySelector(".label")).color,
}))"""


@asynccontextmanager
async def page_at(
    rig: Rig, *, width: int = 1100, scheme: Any = "light", **port_changes: Any
) -> AsyncIterator[tuple[Page, list[str]]]:
    """The page of an operator who has logged in, and what the browser complains about."""
    rig.backend.port_changes = port_changes
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = await browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, ignore_https_errors=True
        )
        page.set_default_timeout(2000 * DEADLINE)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(rig.origin)
        await page.fill("#login-password", PASSWORD)
        complaints.clear()  # that nobody was logged in
        await page.click("#login-button")
        await page.wait_for_selector("#ports article, #ports > p:not(.muted)")
        try:
            yield page, complaints
        finally:
            await browser.close()


async def table(page: Page) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in await page.evaluate(TABLE)}


def test_the_card_tells_the_path_and_every_verdict(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, page_at(rig) as (page, complaints):
            path = (await page.inner_text(".path")).split("\n")
            assert [line for line in path if line] == [
                "Port", "mgmt0", "Link up", "52:54:00:5a:11:01", "Forwarder", "Packet ring", "ring",
                "Front-end VM", "Shared memory", "Up", "vhost-user",
            ]  # fmt: skip
            assert await page.is_hidden(".faults")
            rows = await table(page)
            shown = {row["name"]: row for row in rows.values() if row["name"]}
            assert list(shown) == [name for name in WORDS.verdicts if name not in BRIDGE_ONLY]
            for name, row in shown.items():
                label, meaning = WORDS.verdicts[name]
                assert (row["label"], row["meaning"], row["title"]) == (label, meaning, meaning)
            spoofed, runt = shown["spoofed"], shown["runt"]
            assert (spoofed["cells"], spoofed["bytes"]) == (["0", "2"], ["", "120 B"])
            assert spoofed["titles"] == ["0 bytes", "120 bytes"]
            # What happened is explained where it can be seen; what did not is quiet, and explained to who asks.
            assert (spoofed["kind"], spoofed["seen"]) == ("drop", True)
            assert (runt["kind"], runt["seen"], runt["cells"]) == ("zero", False, ["0", "0"])
            assert spoofed["colour"] != runt["colour"]
            dropped = rows["Dropped"]["cells"]
            assert dropped == [str(int(shown["destination"]["cells"][0]) + 3), "2"]
            assert complaints == []

    asyncio.run(scenario())


def test_a_data_partition_in_trouble_is_told(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, page_at(rig) as (page, complaints):
            assert await page.is_hidden("#storage")
            rig.backend.storage = Storage("temporary", "All is <b>lost</b> at the next start.")
            await page.wait_for_selector("#storage:not([hidden])")
            assert await page.inner_text("#storage") == "All is <b>lost</b> at the next start."
            assert complaints == []

    asyncio.run(scenario())


def test_the_card_follows_the_counters_without_being_made_anew(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, page_at(rig) as (page, complaints):
            await page.evaluate("document.querySelector('#ports article').dataset.mark = 'mine'")
            before = (await table(page))["Passed"]["cells"][0]
            rig.backend.port_changes = {"vm_up": False, "carrier": False, "faults": [Fault("chain_index", 3),
                                                                                    Fault("not_known", 1)]}  # fmt: skip
            await page.wait_for_selector(".faults:not([hidden])")
            assert (await page.inner_text(".faults")).split("\n")[1:] == [
                "3 \u00d7 a descriptor index outside the table chain_index", "1 \u00d7 for another reason not_known",
            ]  # fmt: skip
            assert await page.inner_text(".port-vm-up") == "Down"
            assert await page.inner_text(".port-carrier") == "No link"
            assert (await table(page))["Passed"]["cells"][0] != before
            assert "/s" in await page.inner_text(".verdicts tbody tr:first-child td")
            assert await page.get_attribute("#ports article", "data-mark") == "mine"
            rig.backend.port_changes = {"verdicts": [Counter("rx_passed", 1, 60)]}
            await page.wait_for_selector("#ports article:not([data-mark])")
            assert list(await table(page)) == ["On the wire", "Passed", "Dropped"]
            assert complaints == []

    asyncio.run(scenario())


def test_counters_of_the_bridge_and_names_that_nobody_knows(configuration: Path) -> None:
    """Also names that mean something to JavaScript, or to this page."""
    strange = ["constructor", "__proto__", "rx_", "rx_dropped", "<img src=x onerror=alert(1)>"]
    counters = [Counter("rx_passed", 5, 500), Counter("tx_spoofed", 7, 70), Counter("to_host", 9, 900)]

    async def scenario() -> None:
        counts = [*counters, *(Counter(name, 1, 60) for name in strange)]
        async with (
            running(configuration) as rig,
            page_at(rig, way="bridge", vm="tap", verdicts=counts, faults=[Fault("constructor", 1)]) as (
                page,
                complaints,
            ),
        ):
            rows = await table(page)
            assert rows["Forged source"]["cells"] == ["\u2013", "7"]
            assert rows["To the host"]["cells"] == ["9"]
            assert {"constructor", "__proto__", "", "dropped", strange[-1]} <= set(rows)
            assert rows["constructor"]["name"] == "", "a name of its own, not what Object has under it"
            assert rows["Dropped"]["cells"] == ["2", "7"]
            assert await page.inner_text(".faults li") == "1 \u00d7 for another reason constructor"
            assert await page.inner_text("#live-text") == "Live"
            assert complaints == []

    asyncio.run(scenario())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_of_a_small_screen(configuration: Path, scheme: str) -> None:
    most = 2**64 - 1
    verdicts = [Counter(f"{d}_{name}", most, most) for d in ("rx", "tx") for name in WORDS.verdicts]
    changes = {"verdicts": verdicts, "faults": [Fault("chain_indirect", most)], "rx_frames": most, "tx_bytes": most}

    async def scenario() -> None:
        async with running(configuration) as rig:
            for port in ({}, changes):
                async with page_at(rig, width=360, scheme=scheme, **port) as (page, complaints):
                    for selector in ("html", ".scroll", ".path", ".verdicts"):
                        over = await page.eval_on_selector(selector, "(node) => node.scrollWidth - node.clientWidth")
                        assert over <= 0, selector
                    sight = "(node) => getComputedStyle(node).backgroundColor"
                    dark = await page.eval_on_selector(".card.full", sight) != "rgb(255, 255, 255)"
                    assert dark is (scheme == "dark")
                    assert complaints == []

    asyncio.run(scenario())


def test_without_its_words_the_page_shows_names(configuration: Path) -> None:
    async def scenario() -> None:
        async with running(configuration) as rig, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
            page = await browser.new_page(ignore_https_errors=True)
            await page.route("**/words.json", lambda route: route.abort())
            await page.goto(rig.origin)
            await page.fill("#login-password", PASSWORD)
            await page.click("#login-button")
            await page.wait_for_selector("#ports article")
            rows = await table(page)
            assert {"passed", "spoofed", "runt"} <= set(rows)
            assert await page.inner_text(".port-way") == "ring"
            await browser.close()

    asyncio.run(scenario())

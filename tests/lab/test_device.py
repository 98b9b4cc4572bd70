"""The outside suite on a device of a lab, power-cycled by the lab: sealed, and nothing was left untested.

Nothing of labgrid is imported: its pytest plugin gives the target. Without it, or without --lg-env, this is skipped.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import proof.device
from proof.report.publish import write_report
from proof.report.summary import print_summary
from proof.result import Verdict
from rootfs.build import OUT
from rootfs.spec import profile as profiles

pytestmark = pytest.mark.lab

CONSOLE = Console(stderr=True, soft_wrap=True)
INTERFACES = ("NetworkInterface", "USBNetworkInterface", "RemoteNetworkInterface")


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Any:
    """The labgrid target ``main``."""
    if not request.config.getoption("lg_env", default=None):
        pytest.skip("no lab: install labgrid and name an environment with --lg-env (see tests/lab/bench.yaml)")
    return request.getfixturevalue("target")


def option(place: Any, name: str) -> str:
    """One of the place's options; empty if it is missing."""
    try:
        value = place.env.config.get_target_option(place.name, name)
    except KeyError:
        return ""
    assert isinstance(value, str), f"{name}: write it in quotes, or YAML takes 52:54:00:00:00:01 for a number"
    return value


def interface(place: Any) -> str:
    """Name of the network interface that leads to the device, if that is one of this machine."""
    resource = next(found for found in place.resources if type(found).__name__ in INTERFACES)
    host = getattr(resource, "host", None)
    if host and host not in ("localhost", socket.gethostname(), socket.getfqdn()):
        pytest.fail(f"{resource.ifname} is an interface of {host}: the probes need it itself, so run them there")
    return str(resource.ifname)


@contextmanager
def recorded(place: Any, path: Path) -> Iterator[None]:
    """Write what the serial console says to a file, if the place has one."""
    console = place.get_driver("ConsoleProtocol") if has_console(place) else None
    ended = threading.Event()

    def record() -> None:
        with path.open("wb") as file:
            while console is not None and not ended.is_set():
                with suppress(Exception):  # pexpect.TIMEOUT: nothing was said
                    file.write(console.read(timeout=0.5))
                    file.flush()

    thread = threading.Thread(target=record, daemon=True)
    if console is not None:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if console is not None:
            thread.join(5)


def has_console(place: Any) -> bool:
    """Whether the environment gives the place a serial console."""
    return any("ConsoleProtocol" in (base.__name__ for base in type(d).__mro__) for d in place.drivers)


def test_the_device_is_sealed(place: Any) -> None:
    seed = random.SystemRandom().randrange(2**32)
    folder = OUT / "verify" / f"lab-{place.name}"
    folder.mkdir(parents=True, exist_ok=True)
    profile = profiles.load(option(place, "profile"))
    power = place.get_driver("PowerProtocol")
    names = {"mac": option(place, "mac"), "port_mac": option(place, "port_mac")}
    power.on()
    with (
        recorded(place, folder / "serial.log"),
        proof.device.reach(
            profile, interface(place), folder, CONSOLE, **names, ask=None, boot=proof.device.UP_TIMEOUT
        ) as device,
    ):
        report = proof.device.attack(device, lambda *_: None, seed=seed, power=power)
    write_report(report, folder)
    print_summary(report, CONSOLE)
    bad = [result for result in report.results if result.verdict in (Verdict.HOLE, Verdict.NOT_TESTED)]
    assert not bad, f"seed {seed}: {bad}"
    assert report.verdict is Verdict.SEALED

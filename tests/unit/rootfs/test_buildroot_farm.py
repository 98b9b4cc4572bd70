"""A compile farm as the user names it."""

from __future__ import annotations

import os

import pytest

from rootfs.buildroot import farm
from rootfs.buildroot.farm import Farm, Node
from rootfs.errors import SallyportError


def test_nodes_are_named_by_address_port_and_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    found = farm.read("10.0.0.2/8  10.0.0.3:4000 ")
    assert found.nodes == (Node("10.0.0.2", farm.PORT, 8), Node("10.0.0.3", 4000, farm.JOBS))
    assert found.jobs == 2 + 8 + farm.JOBS
    told = found.environment()
    assert told["DISTCC_HOSTS"] == "localhost/2 10.0.0.2:3632/8 10.0.0.3:4000/4"
    assert told["CCACHE_PREFIX"] == "distcc"


def test_without_nodes_nothing_is_told() -> None:
    assert farm.read("") == Farm()
    assert Farm().environment() == {}


@pytest.mark.parametrize(
    "setting", ["builder", "10.0.0.300", "10.0.0.2/0", "10.0.0.2:0", "10.0.0.2:65536", "10.0.0.2/8,lzo", "::1/2", "-x"]
)
def test_what_is_no_node_is_named(setting: str) -> None:
    with pytest.raises(SallyportError, match=f"SALLYPORT_FARM: '{setting}'"):
        farm.read(f"10.0.0.2 {setting}")


@pytest.mark.parametrize(
    ("listen", "allow", "port", "jobs"),
    [
        ("", "10.0.0.0/24", 1, 1),
        ("10.0.0.2", "0.0.0.0/0", 1, 1),
        ("10.0.0.2", "", 1, 1),
        ("10.0.0.2", "10.0.0.3", 0, 1),
        ("10.0.0.2", "10.0.0.3", 1, 0),
    ],
)
def test_a_node_answers_nobody_that_it_was_not_told(listen: str, allow: str, port: int, jobs: int) -> None:
    with pytest.raises(SallyportError):
        farm.command(listen, allow, port, jobs)
    assert "10.0.0.0/24" in farm.command("10.0.0.2", "10.0.0.0/24", 1, 1)

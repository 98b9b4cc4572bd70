"""A compile farm as the user names it."""

from __future__ import annotations

import os

import pytest

from rootfs.base.errors import SallyportError
from rootfs.engines.buildroot import distcc
from rootfs.engines.buildroot.distcc import Farm, Node


def test_nodes_are_named_by_address_port_and_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    found = distcc.read("10.0.0.2/8  10.0.0.3:4000 ")
    assert found.nodes == (Node("10.0.0.2", distcc.PORT, 8), Node("10.0.0.3", 4000, distcc.JOBS))
    assert found.jobs == 2 + 8 + distcc.JOBS
    told = found.environment()
    assert told["DISTCC_HOSTS"] == "localhost/2 10.0.0.2:3632/8 10.0.0.3:4000/4"
    assert told["CCACHE_PREFIX"] == "distcc"


def test_without_nodes_nothing_is_told() -> None:
    assert distcc.read("") == Farm()
    assert Farm().environment() == {}


@pytest.mark.parametrize(
    "setting", ["builder", "10.0.0.300", "10.0.0.2/0", "10.0.0.2:0", "10.0.0.2:65536", "10.0.0.2/8,lzo", "::1/2", "-x"]
)
def test_what_is_no_node_is_named(setting: str) -> None:
    with pytest.raises(SallyportError, match=f"SALLYPORT_FARM: '{setting}'"):
        distcc.read(f"10.0.0.2 {setting}")


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
        distcc.command(listen, allow, port, jobs)
    assert "10.0.0.0/24" in distcc.command("10.0.0.2", "10.0.0.0/24", 1, 1)

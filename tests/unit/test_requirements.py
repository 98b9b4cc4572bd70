"""requirements.lock and rootfs/base/packages.lock hold what the dependency groups of pyproject.toml ask for."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from rootfs.base.version import PROJECT

GROUPS: dict[str, list[Any]] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["dependency-groups"]
LOCK = (PROJECT / "requirements.lock").read_text()
LOCKED = {name: Version(version) for name, version in re.findall(r"^(\S+)==(\S+) \\$", LOCK, re.MULTILINE)}


def _requirements(group: str) -> list[Requirement]:
    """What the group asks for, itself and through the groups that it includes."""
    found: list[Requirement] = []
    for entry in GROUPS[group]:
        found += _requirements(entry["include-group"]) if isinstance(entry, dict) else [Requirement(entry)]
    return found


@pytest.mark.parametrize("wanted", _requirements("dev"), ids=str)
def test_lock_has_each_requirement_in_a_version_that_fits(wanted: Requirement) -> None:
    locked = LOCKED.get(canonicalize_name(wanted.name))
    assert locked is not None, f"{wanted.name} is not in requirements.lock: run `invoke lock`"
    assert locked in wanted.specifier, f"requirements.lock has {wanted.name} {locked}: run `invoke lock`"


def test_lock_names_no_address() -> None:
    assert "://" not in LOCK
    assert "--index-url" not in LOCK


def test_dev_includes_every_group() -> None:
    assert {entry["include-group"] for entry in GROUPS["dev"]} == set(GROUPS) - {"dev"}


@pytest.mark.parametrize("wanted", _requirements("appliance"), ids=str)
def test_tests_run_what_the_image_carries(wanted: Requirement) -> None:
    """Debian's upstream version, revision aside, is one that the group allows."""
    lines = (PROJECT / "rootfs/base/packages.lock").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    found = {row[2] for row in rows if row[0] in ("host", "frontend") and row[1] == f"python3-{wanted.name}"}
    assert found, f"no image carries python3-{wanted.name}"
    for version in found:
        assert version.rpartition("-")[0] in wanted.specifier, f"the image carries {wanted.name} {version}"

"""The forwarder's tests load the modules that images have, and `TESTING`: all are built here if not current."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from rootfs import build
from rootfs.base.cache import Cache
from rootfs.base.errors import SallyportError
from rootfs.base.package_sets import PackageSets
from rootfs.tree import extension

HERE = Path(__file__).parent
TESTING = extension.Extension(
    "extension-testing",
    "Forwarder's test module (C)",
    {
        "pyproject.toml": HERE / "c/pyproject.toml",
        "backend/forwarder/core": extension.PACKAGE / "forwarder/core",
        "backend/lan/core": extension.PACKAGE / "lan/core",
        "tests/unit/forwarder/c": HERE / "c",
    },
    "tests/unit/forwarder",
    ("_testing.abi3.so",),
    HERE,
)


def pytest_configure() -> None:
    # Before any test is collected: the test modules import what is built here.
    try:
        sets = PackageSets(Cache(build.CACHE, Console(stderr=True)))
        for wanted in (extension.FORWARDER, extension.LAN, TESTING):
            extension.install(sets, wanted)
    except SallyportError as error:
        pytest.exit(f"the forwarder's C part cannot be built: {error}\nwhat to do: {error.hint}", returncode=1)

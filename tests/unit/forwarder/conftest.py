"""The forwarder's tests run the very modules that go into the image: built here if they are not current."""

from __future__ import annotations

import pytest
from rich.console import Console

from rootfs import build
from rootfs.base.cache import Cache
from rootfs.base.errors import SallyportError
from rootfs.engines.debian.engine import Engine
from rootfs.tree import extension


def pytest_configure() -> None:
    # Before any test is collected: the test modules import what is built here.
    try:
        extension.install(Engine(Cache(build.CACHE, Console(stderr=True))))
    except SallyportError as error:
        pytest.exit(f"the forwarder's C part cannot be built: {error}\nwhat to do: {error.hint}", returncode=1)

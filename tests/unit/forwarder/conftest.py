"""The forwarder's tests run the very modules that go into the image: built here if they are not current."""

from __future__ import annotations

import pytest
from rich.console import Console

from rootfs import extension, image
from rootfs.debian.engine import Engine
from rootfs.errors import SallyportError
from rootfs.steps import Cache


def pytest_configure() -> None:
    # Before any test is collected: the test modules import what is built here.
    try:
        extension.install(Engine(Cache(image.CACHE, Console(stderr=True))))
    except SallyportError as error:
        pytest.exit(f"the forwarder's C part cannot be built: {error}\nwhat to do: {error.hint}", returncode=1)

"""Registers the marker of the lab's tests, which need labgrid and a device."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lab: needs a labgrid environment (--lg-env) with a device")

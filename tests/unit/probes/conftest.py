"""The simulated appliance answers at once, so the waits for late answers can be short."""

import pytest


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.probes.volley.LISTEN", 0.05)
    monkeypatch.setattr("tests.probes.volley.BRACKET_TIMEOUT", 0.5)
    monkeypatch.setattr("tests.probes.spoof.LISTEN", 0.05)
    monkeypatch.setattr("tests.probes.pace.PATIENCE", 0.15)

"""The simulated appliance answers at once, so the waits for late answers can be short."""

import pytest


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.scan.frame_batch.LISTEN", 0.05)
    monkeypatch.setattr("proof.scan.frame_batch.BRACKET_TIMEOUT", 0.5)
    monkeypatch.setattr("proof.inside.spoof.LISTEN", 0.05)
    monkeypatch.setattr("proof.scan.pace.MIN_CONTROL_TIMEOUT", 0.15)

"""The capture of a datapath: frames of the port into a pcapng file of limited size."""

from __future__ import annotations

from typing import Protocol

from backend.forwarder.errors import FeatureMissingError


class Capture(Protocol):
    """Captures the port's frames, or refuses to."""

    def capture_start(self, file: int, limit: int) -> None:
        """Write a pcapng of at most ``limit`` bytes to an open file.

        Raises:
            OSError: one is running, or the limit is too small.
            FeatureMissingError: frames of this datapath do not pass the process.
        """

    def capture_stop(self) -> bool:
        """End it; False if none was running."""

    def capture_state(self) -> dict[str, int]:
        """What the capture, or the last one, holds."""


class NoCapture:
    """Of datapaths whose frames do not pass the process."""

    def __init__(self, datapath: str) -> None:
        self._datapath = datapath

    def capture_start(self, file: int, limit: int) -> None:
        """Refuse."""
        raise FeatureMissingError(
            f"datapath `{self._datapath}` has no capture", "choose datapath `ring` to capture frames"
        )

    def capture_stop(self) -> bool:
        """Nothing was running."""
        return False

    def capture_state(self) -> dict[str, int]:
        """Nothing."""
        return {}

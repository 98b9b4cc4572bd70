"""Binds sessions and failed logins to one start of the front-end VM.

The VM has the tokens of sessions in its memory, and names the addresses that logins come from. After a restart, nothing
that the VM before it knew or said is valid any more, as it may have been compromised.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from backend.common import vm_state
from backend.daemon.sessions import Sessions
from backend.daemon.throttle import Throttle

log = logging.getLogger("vm")


class VmBinding:
    """Follows the supervisor's state file.

    Attributes:
        start_id: the start of the VM that sessions belong to; None: it is not known, and there are no sessions.
    """

    def __init__(self, state: Path, sessions: Sessions, throttle: Throttle) -> None:
        self._state = state
        self._sessions = sessions
        self._throttle = throttle
        self.start_id: str | None = None

    def follow(self) -> None:
        """End all sessions if the VM was restarted since the last call.

        Likewise when the state file is missing or cannot be read: which VM the sessions belong to is not known then.
        """
        try:
            state = vm_state.read(self._state)
            start_id = state.start_id if state else None
        except (OSError, ValueError, RecursionError, msgspec.DecodeError) as error:
            start_id = None
            if self.start_id is not None:
                log.error("%s cannot be used (%s): all sessions end", self._state, type(error).__name__)
        if start_id != self.start_id:
            self.start_id = start_id
            self._sessions.close_all("vm")
            self._throttle.forget()

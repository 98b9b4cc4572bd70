"""What each instruction does: a module per group of instructions, one handler per type.

Importing this package registers all handlers. A module per group of `backend.protocol`; a new one is imported here.
"""

from __future__ import annotations

from backend.daemon.handlers import port, session, system, vm
from backend.daemon.handlers.registry import handler_of

__all__ = ["handler_of", "port", "session", "system", "vm"]

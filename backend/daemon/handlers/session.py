"""Handlers of `backend.protocol.session`: logging in and out, and the password."""

from __future__ import annotations

from backend.daemon.handlers.registry import Call, handles
from backend.protocol.base import Done
from backend.protocol.peers import Peer
from backend.protocol.refusal import Refused
from backend.protocol.session import PasswordSet, Session, SessionClose, SessionOpen


@handles(SessionOpen)
async def open_session(do: SessionOpen, call: Call) -> Session:
    """Check the password and open a session that belongs to the present start of the VM."""
    services = call.services
    try:
        peer = Peer.parse(do.address)
    except ValueError:
        raise Refused("malformed", "`address` is not an IP address") from None
    start = services.vm.start_id
    if start is None:
        raise Refused("failed", "logins are refused: which front-end VM runs is not known; if it stays so, reboot")
    await services.passwords.check(do.user, do.password, peer)
    if start != services.vm.start_id:
        raise Refused("denied", "the front-end VM was restarted meanwhile; log in again")
    token, call.session = services.sessions.open(do.service, peer)
    return Session(token=token, idle_s=int(services.settings.session_idle_s))


@handles(SessionClose)
async def close_session(_do: SessionClose, call: Call) -> Done:
    """End the operator's session."""
    call.services.sessions.close(call.operator())
    return Done()


@handles(PasswordSet)
async def set_password(do: PasswordSet, call: Call) -> Done:
    """Change the password and end all other sessions."""
    operator = call.operator()
    await call.services.passwords.change(do.old, do.new, operator.peer)
    call.services.sessions.close_others(operator)
    return Done()

"""Every type of instruction has a policy, a place in the schema, one handler and a test; a missing one fails here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

import tests.unit.backend
from backend import protocol
from backend.daemon import handlers
from backend.daemon.handlers.registry import handler_of, handles
from backend.protocol.base import Done, Error, Instruction, Result
from backend.protocol.codec import Reply, Request, decode_reply, decode_request, encode
from backend.protocol.instructions import INSTRUCTIONS, AnyInstruction, AnyResult
from backend.protocol.policy import Policy
from backend.protocol.port import Counter, Fault, Port, Ports, PortsList
from backend.protocol.session import PasswordSet, Session, SessionClose, SessionOpen
from backend.protocol.system import AuditLog, HostnameSet, Status, StatusGet, Storage, SystemReboot
from backend.protocol.vm import Certificate, CertificateGet, Heartbeat, VmStatus
from rootfs.base.version import PROJECT

TOKEN = "t" * 43
POLICIES = {
    SessionOpen: Policy(who="password", audit="sessions"),
    SessionClose: Policy(who="session"),
    StatusGet: Policy(who="session"),
    PortsList: Policy(who="session"),
    HostnameSet: Policy(who="session", audit="changes", mutating=True, rate="changes"),
    PasswordSet: Policy(who="session", audit="changes", mutating=True, rate="changes"),
    SystemReboot: Policy(who="session", audit="changes", mutating=True, rate="changes"),
    Heartbeat: Policy(who="vm"),
    CertificateGet: Policy(who="vm"),
}
"""Written down a second time on purpose: whoever relaxes a policy has to say so twice."""


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """All modules of a package."""
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


def declared(base: type) -> set[type]:
    """All types with that base that a module of the protocol defines."""
    return {
        kind
        for module in modules(protocol)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, base) and kind is not base
    }


def names_in_marks() -> set[str]:
    """Names of instructions in the marks ``@pytest.mark.instruction`` of this package's tests."""
    return {
        name
        for module in modules(tests.unit.backend)
        for function in vars(module).values()
        for mark in getattr(function, "pytestmark", ())
        if mark.name == "instruction"
        for name in mark.args
    }


def test_every_instruction_and_result_is_in_the_schema() -> None:
    file = "backend/protocol/instructions.py"
    assert declared(Instruction) == set(INSTRUCTIONS), f"add the type to AnyInstruction of {file}"
    assert declared(Result) == set(AnyResult.__args__), f"add the type to AnyResult of {file}"


@pytest.mark.parametrize("kind", INSTRUCTIONS, ids=lambda kind: kind.name())
def test_every_instruction_has_the_policy_that_is_written_here(kind: type[Instruction]) -> None:
    assert kind in POLICIES, f"write the policy of {kind.__name__} into POLICIES of this file"
    assert vars(kind).get("policy") == POLICIES[kind], "`policy` of the type and of POLICIES in this file differ"


@pytest.mark.parametrize("kind", INSTRUCTIONS, ids=lambda kind: kind.name())
def test_every_instruction_has_one_handler(kind: type[Instruction]) -> None:
    try:
        module = handler_of(kind).__module__
    except KeyError:
        pytest.fail(f"no function in {handlers.__name__} is decorated by @handles({kind.__name__})")
    assert module == kind.__module__.replace("backend.protocol.", f"{handlers.__name__}."), "groups differ"
    with pytest.raises(ValueError, match="two handlers"):
        handles(kind)(handler_of(kind))


@pytest.mark.parametrize("kind", INSTRUCTIONS, ids=lambda kind: kind.name())
def test_every_instruction_has_a_test(kind: type[Instruction]) -> None:
    assert kind.name() in names_in_marks(), (
        f'no test in tests/unit/backend is marked @pytest.mark.instruction("{kind.name()}")'
    )


@pytest.mark.parametrize("kind", INSTRUCTIONS, ids=lambda kind: kind.name())
def test_the_proof_tries_every_instruction_of_an_operator_without_one(kind: type[Instruction]) -> None:
    """Read as text: what runs in the VM's root shell is no module that could be imported here."""
    if kind.policy.who != "session":
        pytest.skip("it needs no session")
    file = "proof/inside/misuse_script/connection.py"
    assert f'{{"type": "{kind.name()}"' in (PROJECT / file).read_text(), f"add {kind.name()} to INSTRUCTIONS of {file}"


def test_every_mark_names_an_instruction() -> None:
    assert names_in_marks() <= {kind.name() for kind in INSTRUCTIONS}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mutating": False}, "mutating"),
        ({"audit": "rejected"}, "mutating"),
        ({"rate": "requests"}, "rate"),
        ({"who": "vm"}, "session"),
        ({"who": "password"}, "session"),
    ],
)
def test_a_policy_that_contradicts_itself_cannot_be_declared(change: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {"who": "session", "audit": "changes", "mutating": True, "rate": "changes"} | change
    with pytest.raises(ValueError, match=message):
        Policy(**fields)  # type: ignore[arg-type]


REQUESTS: dict[AnyInstruction, str] = {
    SessionOpen(user="admin", password="pässword", service="https", address="2001:db8::1"): (
        '{"type":"session.open","user":"admin","password":"pässword","service":"https","address":"2001:db8::1"}'
    ),
    SessionClose(): '{"type":"session.close"}',
    StatusGet(): '{"type":"status.get"}',
    PortsList(): '{"type":"ports.list"}',
    HostnameSet(hostname="a-1"): '{"type":"hostname.set","hostname":"a-1"}',
    PasswordSet(old="o", new="n"): '{"type":"password.set","old":"o","new":"n"}',
    SystemReboot(): '{"type":"system.reboot"}',
    Heartbeat(): '{"type":"vm.heartbeat"}',
    CertificateGet(): '{"type":"certificate.get"}',
}


@pytest.mark.parametrize("kind", INSTRUCTIONS, ids=lambda kind: kind.name())
def test_an_instruction_has_its_form_on_the_link(kind: type[Instruction]) -> None:
    found = [(do, text) for do, text in REQUESTS.items() if type(do) is kind]
    assert len(found) == 1, f"write one {kind.__name__} and its form into REQUESTS of this file"
    ((do, text),) = found
    request = Request(v=1, seq=7, do=do, token=TOKEN)
    line = f'{{"v":1,"seq":7,"do":{text},"token":"{TOKEN}"}}\n'.encode()
    assert encode(request) == line
    assert decode_request(line) == request


STATUS = Status(
    hostname="h", product="p", version="v", profile="pr", engine="e", image="i", boot_id="b", uptime_s=1.5,
    load_1m=0.25, memory_total=1, memory_available=2, data_total=3, data_available=4, storage=Storage("ok", ""),
    machine=VmStatus("running", "kvm", "r", 1, 2.5, "x"), web_fingerprint="w", ssh_fingerprint="s",
    audit=AuditLog("whole", "", 1, "hd"),
)  # fmt: skip
PORT = Port(
    name="mgmt0", mac="m", carrier=True, rx_frames=1, rx_bytes=2, tx_frames=3, tx_bytes=4, way="ring", vm="tap",
    vm_up=False, verdicts=[Counter("rx_passed", 1, 2)], faults=[Fault("legacy", 1)],
)  # fmt: skip
RESULTS: list[tuple[AnyResult, str]] = [
    (Done(), '{"type":"done"}'),
    (Session(TOKEN, 900), f'{{"type":"session","token":"{TOKEN}","idle_s":900}}'),
    (
        STATUS,
        '{"type":"status","hostname":"h","product":"p","version":"v","profile":"pr","engine":"e","image":"i",'
        '"boot_id":"b","uptime_s":1.5,"load_1m":0.25,"memory_total":1,"memory_available":2,"data_total":3,'
        '"data_available":4,"storage":{"state":"ok","text":""},"machine":{"state":"running","accelerator":"kvm",'
        '"accelerator_reason":"r","starts":1,"uptime_s":2.5,"last_exit":"x"},"web_fingerprint":"w",'
        '"ssh_fingerprint":"s","audit":{"state":"whole","fault":"","entries":1,"head":"hd"}}',
    ),
    (
        Ports([PORT]),
        '{"type":"ports","ports":[{"name":"mgmt0","mac":"m","carrier":true,"rx_frames":1,"rx_bytes":2,"tx_frames":3,'
        '"tx_bytes":4,"way":"ring","vm":"tap","vm_up":false,"verdicts":[{"name":"rx_passed","frames":1,"bytes":2}],'
        '"faults":[{"name":"legacy","times":1}]}]}',
    ),
    (Certificate("pem"), '{"type":"certificate","pem":"pem"}'),
    (Error("limited", "m", 1.5, 7), '{"type":"error","code":"limited","message":"m","retry_after_s":1.5,"last_seq":7}'),
]


@pytest.mark.parametrize(("result", "text"), RESULTS, ids=[type(result).__name__ for result, _ in RESULTS])
def test_a_result_has_its_form_on_the_link(result: AnyResult, text: str) -> None:
    line = f'{{"seq":7,"result":{text}}}\n'.encode()
    assert encode(Reply(7, result)) == line
    assert decode_reply(line) == Reply(7, result)


def test_every_result_has_its_form_here() -> None:
    assert {type(result) for result, _ in RESULTS} == declared(Result), "write one, and its form, into RESULTS"

"""The layers of the repository: who may import whom, each rule with its reason, and no module imports in a circle.

An import inside a function or below ``if TYPE_CHECKING`` counts as any other: it needs the other module as much.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from rootfs.base.version import PROJECT

TOPS = ("backend", "docs", "driver", "fleet", "frontend_vm", "overlays", "proof", "rootfs", "tasks", "tests")
"""Our packages; what else is imported is Python's own or comes from the package index."""
ROOTFS = (
    ("rootfs.build", "rootfs.matrix", "rootfs.tasks"),
    ("rootfs.artifact",),
    ("rootfs.tree",),
    ("rootfs.engines",),
    ("rootfs.spec",),
    ("rootfs.base",),
)
"""The layers of rootfs/, the topmost first."""
PROCESSES = ("backend.daemon", "backend.forwarder", "backend.guests", "backend.lan")

PROOF_BASE = ("proof.progress", "proof.remote_answer", "proof.remote_script", "proof.result")
PROBES_SHARE = (*PROOF_BASE, "proof.declared", "proof.scan", "proof.wire")
PROBES_APART = "a probe can be understood without the others: they share what stands below them"

RULES = {
    "backend": (TOPS, {"backend"}, "the image has nothing of ours beside it on the host"),
    "frontend_vm": (TOPS, {"frontend_vm"}, "the image has nothing of ours beside it in the VM"),
    "rootfs": (TOPS, {"rootfs", "backend"}, "images are built without what drives, proves or tests them"),
    "driver": (TOPS, {"driver", "rootfs", "backend"}, "an appliance is run without proving it"),
    "proof": (
        TOPS,
        {"proof", "driver", "rootfs", "backend", "frontend_vm"},
        "a product is proven without our tests",
    ),
    "docs": (
        TOPS,
        {"docs", "proof", "driver", "rootfs", "backend", "frontend_vm"},
        "the reference is made of the product, not of its tests",
    ),
    "fleet": (TOPS, {"fleet", "proof", "driver", "rootfs", "backend", "frontend_vm"}, "tests are no product's"),
    "backend.protocol": (
        ["backend"],
        {"backend.protocol"},
        "the VM has these very files, and nothing else of the host",
    ),
    "backend.common": (PROCESSES, set(), "what all processes of the host share depends on none of them"),
    "backend.daemon": (
        PROCESSES,
        {"backend.daemon"},
        "it speaks to the other processes, it has none of their code",
    ),
    "backend.guests": (PROCESSES, {"backend.guests"}, "the supervisor has other rights than the daemon"),
    "backend.lan": (PROCESSES, {"backend.lan", "backend.forwarder"}, "the guest LAN is run by the forwarder's loop"),
    "backend.forwarder": (PROCESSES, {"backend.forwarder"}, "images without a guest LAN do not have backend.lan"),
    **{
        layer: (
            [other for layers in ROOTFS for other in layers],
            {layer, *(other for below in ROOTFS[at + 1 :] for other in below)},
            "each layer of rootfs/ is made of those below it and can be read, and changed, without those above it",
        )
        for at, layers in enumerate(ROOTFS)
        for layer in layers
    },
    **dict.fromkeys(
        PROOF_BASE, (["proof"], {*PROOF_BASE}, "everything in the proof uses them, so they stand at the bottom")
    ),
    "proof.wire": (["proof"], {"proof.wire", *PROOF_BASE}, "frames and sockets know nothing of what is probed"),
    "proof.scan": (
        ["proof"],
        {"proof.scan", "proof.wire", *PROOF_BASE},
        "probes share it, so it knows none of them",
    ),
    "proof.declared": (["proof"], {"proof.declared"}, "what an image may have is declared, not computed by a probe"),
    "proof.outside": (["proof"], {"proof.outside", *PROBES_SHARE}, PROBES_APART),
    "proof.inside": (["proof"], {"proof.inside", *PROBES_SHARE}, PROBES_APART),
    "proof.host": (["proof"], {"proof.host", *PROBES_SHARE}, PROBES_APART),
    "proof.image": (["proof"], {"proof.image", *PROBES_SHARE}, PROBES_APART),
    "proof.report": (["proof"], {"proof.report", *PROOF_BASE}, "a report is made of results, whatever found them"),
    "proof.image.tree": (
        ["proof.image"],
        {"proof.image.tree"},
        "the files of a root file system are judged wherever it was unpacked from; flash/ builds on it",
    ),
    "proof.device": (
        ["proof"],
        {
            "proof.device",
            "proof.identity",
            "proof.outside",
            "proof.report",
            "proof.stages",
            "proof.verify",
            *PROBES_SHARE,
        },
        "a real device has no root shell, and its image is not at hand: only probes from outside",
    ),
    **{
        f"proof.{name}": (["proof.tasks"], set(), "the command line calls the proof, never the other way round")
        for name in ("verify", "stages", "rig", "identity")
    },
    # Orchestrating (build), several at a time (matrix) and the command line (tasks) are in this order.
    "rootfs.tasks": ((), set(), "the topmost: it may import everything in rootfs/"),
    "rootfs.external": (("rootfs",), set(), "Buildroot runs it inside its build sandbox, where nothing of ours is"),
}
"""Who imports: of which packages (first) it may import those alone that are named second, and why."""


def modules() -> dict[str, Path]:
    """Every Python module of the repository by its name; tests/unit's scripts that other programs run included."""
    found = {}
    for top in TOPS:
        for path in [PROJECT / f"{top}.py", *(PROJECT / top).rglob("*.py")]:
            if path.is_file() and not path.is_symlink() and (PROJECT / "frontend_vm/protocol") not in path.parents:
                name = path.relative_to(PROJECT).with_suffix("").as_posix().replace("/", ".")
                found[name.removesuffix(".__init__")] = path
    return found


def imported(name: str, source: str, known: set[str]) -> set[str]:
    """The modules of the repository that a module's source imports; of ``from a import b`` it is a.b if that is one."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # Relative imports: the link's protocol has them, as it is a package of the backend and of the VM's.
            base = name.split(".")[: -node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {below if (below := f"{module}.{alias.name}") in known else module for alias in node.names}
    return {one for one in found if one.partition(".")[0] in TOPS}


MODULES = modules()
IMPORTS = {name: imported(name, path.read_text(), {*MODULES}) for name, path in MODULES.items()}


def within(name: str, packages: object) -> bool:
    """Whether a module is one of some packages, or in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)  # type: ignore[attr-defined]


def offences(imports: dict[str, set[str]]) -> Iterator[str]:
    """What of these imports no rule allows."""
    for package, (concerned, allowed, why) in RULES.items():
        for name, others in imports.items():
            if within(name, [package]):
                for other in sorted(others):
                    if within(other, concerned) and not within(other, allowed):
                        yield f"{name} imports {other}: {why}"
    for name, others in imports.items():
        if not within(name, ["tests", "tasks"]):
            yield from (
                f"{name} imports {other}: only tests and tasks.py know tests/"
                for other in sorted(others)
                if within(other, ["tests"])
            )


def test_every_import_keeps_to_the_layers() -> None:
    assert not list(offences(IMPORTS))


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("rootfs.base.process", "rootfs.spec.profile"),
        ("rootfs.tree.kernel", "rootfs.artifact.disk"),
        ("rootfs.artifact.disk", "rootfs.build"),
        ("backend.daemon.main", "rootfs.base.errors"),
        ("backend.protocol.peers", "backend.daemon.audit"),
        ("frontend_vm.cli", "backend.protocol.peers"),
        ("driver.run", "proof.result"),
        ("proof.result", "tests.images"),
        ("proof.outside.ports", "proof.inside.flood"),
        ("proof.wire.frame", "proof.scan.pace"),
        ("proof.remote_script", "proof.host.listeners"),
        ("proof.image.tree.checks", "proof.image.flash"),
        ("proof.device", "proof.inside.link"),
        ("proof.report.page", "proof.scan.sweep"),
    ],
)
def test_an_import_upwards_is_an_offence(name: str, other: str) -> None:
    assert list(offences({name: {other}}))

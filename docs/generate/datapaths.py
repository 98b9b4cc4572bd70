"""The datapaths and what is counted on them, from the profile's schema and the words of page and command line."""

from __future__ import annotations

from docs.generate.markdown import code, table
from frontend_vm.words import WORDS
from rootfs.spec.profile import DATAPATHS, Forwarder


def overview() -> str:
    """Every datapath: its name, what the profile says for it, and what moves the frames."""
    default = (Forwarder().port, Forwarder().vm)
    rows = []
    for name, ends in DATAPATHS.items():
        port, vm = ends
        said = f"{WORDS.ways[port][1]} {WORDS.vms[vm][1]}"
        rows.append(
            [code(name), f'`port = "{port}"`, `vm = "{vm}"`', said + (" The default." if ends == default else "")]
        )
    return table(["name", "in the profile", "what moves the frames"], rows)


def verdicts() -> str:
    """Every verdict on a frame, as page and command line explain it."""
    return table(["counter", "label", "meaning"], [[code(name), *words] for name, words in WORDS.verdicts.items()])


def faults() -> str:
    """Every reason for which the forwarder stops the VM's NIC."""
    return table(["reason", "meaning"], [[code(name), words] for name, words in WORDS.faults.items()])

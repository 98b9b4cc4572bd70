"""The run of all checks on an image's trees."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from proof.image.tree.checks import HOST_CHECKS, VM_CHECKS, manifest_check, own_check
from proof.image.tree.entries import Tree, TreeError
from proof.image.tree.exposure import Analyze, exposure
from proof.image.tree.findings import OwnFile
from proof.image.tree.kernel import command_line, command_line_of
from proof.image.tree.outcome import Outcome, result, run_check
from proof.result import Result


def run_tree(
    host_tree: Path,
    vm_tree: Path,
    analyze: Analyze | None = None,
    *,
    files: Mapping[str, str] | None = None,
    kernel: Path | None = None,
    root_hash: str = "",
    own_files: tuple[Mapping[str, OwnFile], Mapping[str, OwnFile]] | None = None,
    test_access: bool = False,
) -> list[Result]:
    """Check the unpacked root file systems of an image and return all results; never raises for what is in them.

    Args:
        host_tree: the host's, unpacked as root (else owners and modes are lost, and those checks are "not-tested").
        vm_tree: the VM's.
        analyze: runs ``systemd-analyze``; it must see ``host_tree`` and its parent, where the scratch trees are made,
            under their own paths. Without it there is no result ``exposure``.
        files: the manifest's path to SHA-256; without it there is no result ``manifest``.
        kernel: the unified kernel image; without it there is no result ``command-line``.
        root_hash: the manifest's.
        ours: what this checkout puts into both trees; without it there are no results ``own-files``.
        test_access: the trees are a test image's: what such an image has besides is allowed, and only that.
    """
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=host_tree.parent, ignore_cleanup_errors=True) as directory:
        scratch = Path(directory)
        scratch.chmod(0o755)  # below a directory that is ours alone; what analyzes is confined
        host, vm = Tree(host_tree, test_access=test_access), Tree(vm_tree, test_access=test_access)
        checks, vm_checks = [*HOST_CHECKS], [*VM_CHECKS]
        checks += [manifest_check(files)] if files is not None else []
        if own_files is not None:
            checks.append(own_check(own_files[0]))
            vm_checks.append(own_check(own_files[1]))
        results += [run_check("", check, host, scratch) for check in checks]
        results += [run_check("vm-", check, vm, scratch) for check in vm_checks]
        if analyze is not None:
            results.append(exposure(host, analyze, scratch))
    if kernel is not None:
        try:
            results.append(command_line(command_line_of(kernel), root_hash))
        except TreeError as error:
            outcome = Outcome(trouble=[str(error)])
            results.append(result("command-line", "the unified kernel image", outcome, "", time.monotonic()))
    return results

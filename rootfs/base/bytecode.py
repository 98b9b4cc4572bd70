"""Compiles the Python code of a tree: an image holds byte code and no sources."""

from __future__ import annotations

from pathlib import Path

from rootfs.base.tools_tree import BUILD, Tools


def compile_python(tools: Tools, build: Path, directory: str) -> None:
    """Compile every module below ``build/directory`` and remove the sources that were compiled.

    The byte code is marked "unchecked" (PEP 552): it holds no time stamp and needs no source. The path that tracebacks
    show is the one on the appliance.

    Args:
        tools: the tools tree, whose Python has the version of the image's.
        build: the step's directory.
        directory: relative to ``build``; its first component is the root of the tree.

    Raises:
        CommandError: a module cannot be compiled.
    """
    top = directory.split("/", 1)[0]
    tools.run(
        [
            *("python3", "-m", "compileall", "-q", "-b", "-f", "-j1", "--invalidation-mode", "unchecked-hash"),
            *("-s", f"{BUILD}/{top}", "-p", "/", f"{BUILD}/{directory}"),
        ],
        build=build,
        env={"PYTHONHASHSEED": "0"},
    )
    for source in (build / directory).rglob("*.py"):
        if source.with_suffix(".pyc").exists():
            source.unlink()

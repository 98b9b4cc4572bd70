"""What prebuilt files call must be there, tried on this machine's own."""

from __future__ import annotations

from pathlib import Path

from rootfs.engines.buildroot import linkage


def loaded(name: str) -> Path:
    """A library of this very process (proc_pid_maps(5))."""
    return next(Path(line.split()[-1]) for line in Path("/proc/self/maps").read_text().splitlines() if name in line)


def test_what_no_library_has_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    libm, libc = loaded("/libm.so"), loaded("/libc.so")
    loader = loaded("/ld-linux")
    assert linkage.missing([script, libm], [libc, loader]) == []
    # A library of the same name without the version that is wanted is another one.
    assert f"{libm.name} wants GLIBC_PRIVATE" in linkage.missing([libm], [script])
    found = linkage.missing([libm], [script])
    assert found
    assert all(line.startswith(f"{libm.name} wants ") for line in found)

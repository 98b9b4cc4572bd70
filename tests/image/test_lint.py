"""Part `c` of `invoke lint`: it finds what is planted in the C sources (the other parts: tests/unit/test_lint.py)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rootfs.base.tools_tree import Tools
from rootfs.base.version import PROJECT
from tests.lint import parts

FAULTS = {
    "not formatted": "int planted(void) { return 1 ; }\n",
    "division by zero": "int planted(void);\n\nint planted(void) {\n    int zero = 0;\n    return 1 / zero;\n}\n",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The settings of both programs, and one clean source."""
    for name in (".clang-format", ".clang-tidy"):
        shutil.copyfile(PROJECT / name, tmp_path / name)
    core = tmp_path / "backend/forwarder/core"
    core.mkdir(parents=True)
    (core / "clean.c").write_text("int clean(void);\n\nint clean(void) {\n    return 1;\n}\n")
    return tmp_path


def test_clean_sources_pass(checkout: Path, tools: Tools) -> None:
    assert parts.check("c", checkout, lambda: tools)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, checkout: Path, tools: Tools) -> None:
    (checkout / "backend/forwarder/core/planted.c").write_text(FAULTS[name])
    assert not parts.check("c", checkout, lambda: tools)

"""`invoke lint`: a fault planted in a copy of the checkout makes the part fail that is there to find it."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from rootfs.base.errors import SallyportError
from rootfs.base.tools_tree import Tools
from rootfs.base.version import PROJECT
from rootfs.spec import profile
from tests.lint import parts, shell

SETTINGS = ("pyproject.toml", ".oxlintrc.json", ".shellcheckrc")
FAULTS = {
    "unused import": ("python", "proof/planted.py", '"""Planted."""\n\nimport os\n'),
    "not formatted": ("python", "proof/planted.py", '"""Planted."""\n\nX = [ 1 ]\n'),
    "wrong type": ("types", "proof/planted.py", '"""Planted."""\n\nX: int = "one"\n'),
    "no type": ("types", "proof/planted.py", '"""Planted."""\n\n\ndef _planted(x):  # noqa\n    return x\n'),
    "script": ("shell", ".ci/planted", "#!/bin/sh\nrm -rf $1\n"),
    "template": ("shell", "overlays/host/usr/lib/sallyport/planted.j2", "#!/bin/sh\nrm {{ profile.name }} $1\n"),
    "template of one datapath": (
        "shell",
        "overlays/host/usr/lib/sallyport/planted.j2",
        '#!/bin/sh\n{% if profile.forwarder.vm == "tap" %}\nrm $1\n{% endif %}\n',
    ),
    "template of test images": (
        "shell",
        "overlays/host/planted.j2",
        "#!/bin/sh\n{% if test_access %}\nrm $1\n{% endif %}\n",
    ),
    "markup": ("javascript", "frontend_vm/static/planted.js", 'document.body.innerHTML = "<b>x</b>";\n'),
    "unused variable": ("javascript", "frontend_vm/static/planted.js", "const planted = 1;\n"),
    "undefined name": ("javascript", "frontend_vm/static/planted.js", "console.log(planted);\n"),
}
"""What it is: the part that must find it, the file, its text."""
ALONE = [name for name in parts.PARTS if name != "c"]
"""Part `c` needs the tools tree: tests/image/test_lint.py."""


def no_tools() -> Tools:
    """For parts that must do without."""
    raise AssertionError("this part does not need the tools tree")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The settings of all linters, and the packages that mypy is told to read, empty."""
    for name in SETTINGS:
        shutil.copyfile(PROJECT / name, tmp_path / name)
    for package in tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["mypy"]["packages"]:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f'"""Package {package}."""\n')
    (tmp_path / "frontend_vm/static").mkdir()
    (tmp_path / "frontend_vm/static/clean.js").write_text('document.body.textContent = "x";\n')
    (tmp_path / "overlays/clean.j2").write_text('#!/bin/sh\necho "{{ profile.name }}"\n')
    return tmp_path


@pytest.mark.parametrize("part", ALONE)
def test_a_clean_checkout_passes(part: str, checkout: Path) -> None:
    assert parts.check(part, checkout, no_tools)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, checkout: Path) -> None:
    part, place, text = FAULTS[name]
    (checkout / place).parent.mkdir(parents=True, exist_ok=True)
    (checkout / place).write_text(text)
    assert not parts.check(part, checkout, no_tools)


def test_fix_sorts_imports_and_formats_and_reads_no_c(checkout: Path) -> None:
    (checkout / "proof/planted.py").write_text('"""Planted."""\n\nimport sys\nimport os\nX = [ os, sys ]\n')
    assert not parts.check("python", checkout, no_tools)
    parts.fix("python", checkout, no_tools)
    assert parts.check("python", checkout, no_tools)


def test_every_part_has_a_planted_fault() -> None:
    assert {part for part, _, _ in FAULTS.values()} == set(ALONE)


def test_an_unknown_part_is_an_error_that_names_the_others(checkout: Path) -> None:
    with pytest.raises(SallyportError) as caught:
        parts.check("perl", checkout, no_tools)
    assert all(part in caught.value.hint for part in parts.PARTS)


def test_every_script_of_this_checkout_is_read() -> None:
    found = {path.relative_to(PROJECT).as_posix() for path in shell.scripts(PROJECT)}
    assert found >= {".ci/run", ".ci/setup", "overlays/host_initramfs/init.j2", "rootfs/external/shims/ccache"}


def test_a_template_is_read_once_for_each_text_that_it_renders_to() -> None:
    with shell.collected(PROJECT) as (folder, scripts):
        texts = [(folder / name).read_text() for name in scripts if name.endswith("/port-setup")]
    assert len(texts) == len(set(texts)) > len(profile.names())
    assert not any("{%" in text or "{{" in text for text in texts)


def hooks() -> dict[str, dict[str, str]]:
    """Of .pre-commit-config.yaml those that run a part of lint, by that part."""
    (repository,) = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local", "a hook of a remote repository is locked by nothing"
    start = ".venv/bin/invoke lint --part "
    return {hook["entry"].removeprefix(start): hook for hook in repository["hooks"] if hook["entry"].startswith(start)}


def test_every_part_is_a_pre_commit_hook() -> None:
    assert set(hooks()) == set(parts.PARTS)


@pytest.mark.parametrize(
    ("part", "files"),
    [
        ("python", PROJECT.glob("*.py")),
        ("types", (PROJECT / "backend").rglob("*.py*")),
        ("shell", shell.scripts(PROJECT)),
        ("javascript", (PROJECT / "frontend_vm").rglob("*.js")),
        ("c", (PROJECT / "backend").rglob("*.[ch]")),
    ],
)
def test_a_change_of_what_a_part_reads_starts_its_hook(part: str, files: Iterable[Path]) -> None:
    pattern = re.compile(hooks()[part]["files"])
    names = [path.relative_to(PROJECT).as_posix() for path in files if path.suffix != ".pyc"]
    assert names
    assert [name for name in names if not pattern.search(name)] == []

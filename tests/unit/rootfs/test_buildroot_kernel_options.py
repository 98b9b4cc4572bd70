"""A kernel has what its configuration names, or the build says which line it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootfs.base.errors import SallyportError
from rootfs.engines.buildroot import kernel_options
from rootfs.spec import architecture, defconfig


def test_a_line_that_was_dropped_or_changed_is_named(tmp_path: Path) -> None:
    first, second, made = tmp_path / "first", tmp_path / "second", tmp_path / ".config"
    first.write_text('CONFIG_A=y\nCONFIG_B=n\n# why\nCONFIG_C=m\nCONFIG_D="text"\n')
    second.write_text("CONFIG_C=y\nCONFIG_E=n\n")
    made.write_text('CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y\nCONFIG_D="text"\n')
    kernel_options.require([first, second], made)
    made.write_text("CONFIG_B=y\nCONFIG_C=y\n")
    with pytest.raises(SallyportError, match="3 options") as caught:
        kernel_options.require([first, second], made)
    assert f"{first}:1: CONFIG_A=y, but the kernel has n\n" in str(caught.value)
    assert f"{first}:2: CONFIG_B=n, but the kernel has y\n" in str(caught.value)
    assert "CONFIG_C" not in str(caught.value)


@pytest.mark.parametrize("target", architecture.ALL.values(), ids=tuple(architecture.ALL))
@pytest.mark.parametrize("name", defconfig.ALL)
def test_each_defconfig_has_a_common_part_and_the_architectures(name: str, target: architecture.Arch) -> None:
    symbols = defconfig.merged(target.configs(name, defconfig.ALL[name]))
    common, own, *drivers = kernel_options.files(symbols)
    assert common.is_file()
    assert own == target.directory / f"linux-{name}.config"
    assert own.is_file()
    assert all(path.is_file() for path in drivers)

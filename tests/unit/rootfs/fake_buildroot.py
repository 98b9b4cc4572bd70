"""A small tree that answers make as Buildroot does: same targets, stamps and words; a package is one line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootfs.engines.buildroot.source import BUILT, EXTERNAL, Source

GOOD = b"a good archive"
INFO: dict[str, dict[str, Any]] = {
    "zlib": {"type": "target", "virtual": True},
    "libzlib": {
        "type": "target", "version": "1.3", "licenses": "Zlib", "dl_dir": "libzlib", "stamp_dir": "build/libzlib-1.3",
        "downloads": [{"source": "zlib-1.3.tar.xz", "uris": ["somewhere"]}], "package_dir": "package/libzlib",
    },
    "host-libzlib": {
        "type": "host", "name": "libzlib", "version": "1.3", "dl_dir": "libzlib", "stamp_dir": "build/host-libzlib-1.3",
        "downloads": [{"source": "zlib-1.3.tar.xz"}], "package_dir": "package/libzlib",
    },
    "tiny": {
        "type": "target", "dl_dir": "tiny", "stamp_dir": "build/tiny-1",
        "downloads": [{"source": "tiny-1.tar.gz"}, {"source": "data-2.tar.gz"}], "package_dir": "package/tiny",
    },
}  # fmt: skip
WORDS = "cc: no room in the boat\nmake[3]: *** No rule to make target 'oars'.  Stop.\n"
"""What a package that fails says."""
PACKAGES = ("host-libzlib-1.3", "libzlib-1.3", "tiny-1")
_MAKEFILE = f"""\
export BR2_VERSION := {BUILT}
STAMPS := $(patsubst %,$(O)/build/%/.stamp_installed,{" ".join(PACKAGES)})
ifeq ($(wildcard parallel),)
.NOTPARALLEL:
endif
all: $(STAMPS)
\t@mkdir -p $(O)/target
host-libzlib libzlib: %: $(O)/build/%-1.3/.stamp_installed
tiny: $(O)/build/tiny-1/.stamp_installed
$(O)/build/%/.stamp_installed:
\t@mkdir -p $(@D)
\t@printf '\\033[7m>>> %s  Building\\033[27m\\n' '$*'
\t@if [ -f fail ] && [ '$*' = "$$(cat fail)" ]; then cat words; [ ! -f once ] || rm fail; exit 1; fi
\t@if [ -f parallel ]; then sleep 0.5; seq 100; fi
\t@if [ -f meet ]; then touch $(O)/here; until [ $$(ls $(O)/../*/here | wc -l) = 2 ]; do sleep 0.1; done; fi
\t@if [ -f linger ] && [ "$(O)" = "$$(cat linger)" ]; then sleep 60; fi
\t@echo '$*' >> $(O)/built
\t@touch $@
%-show-recursive-rdepends:
\t@echo $(if $(filter libzlib,$*),tiny somebody)
%-dirclean:
\t@rm -r $(O)/build/$*-*
defconfig:
\t@grep -q BR2_ $(BR2_DEFCONFIG)
\t@cp $(BR2_DEFCONFIG) $(O)/.config
\t@mkdir -p $(O)/build/buildroot-config
\t@echo $(BR2_EXTERNAL) > $(O)/external
legal-info:
\t@mkdir -p $(O)/legal-info && echo PACKAGE > $(O)/legal-info/manifest.csv
show-info:
\t@test -f $(O)/.config || {{ echo "configure first"; exit 1; }}
\t@echo "warning: something"
\t@cat answer.json
"""


@dataclass
class LocalMakeEnvironment:
    """Runs make on this machine, where everything is at its own place."""

    source: Path
    output: Path
    downloads: Path
    ccache: Path
    external: Path = EXTERNAL

    def argv(self, words: Sequence[str]) -> list[str]:
        return list(words)

    @property
    def variables(self) -> dict[str, str]:
        return {}


@dataclass
class LocalSandbox:
    """Makes places on this machine."""

    prebuilt: Path

    @property
    def identity(self) -> str:
        return self.prebuilt.name

    def make_environment(self, source: Path, output: Path, downloads: Path, ccache: Path) -> LocalMakeEnvironment:
        return LocalMakeEnvironment(source, output, downloads, ccache)


def make_tree(directory: Path) -> Source:
    """Write the tree. ``fail`` in it, with a folder's name, makes that package fail; ``answer.json`` is show-info's."""
    for name in ("libzlib", "tiny"):
        (directory / "package" / name).mkdir(parents=True)
    (directory / "Makefile").write_text(_MAKEFILE)
    (directory / "Config.in").write_text("")
    (directory / "words").write_text(WORDS)
    (directory / "answer.json").write_text(json.dumps(INFO) + "\n")
    digest = hashlib.sha256(GOOD).hexdigest()
    (directory / "package/libzlib/libzlib.hash").write_text(f"# from upstream\n\nsha256  {digest}  zlib-1.3.tar.xz\n")
    return Source.open(directory)

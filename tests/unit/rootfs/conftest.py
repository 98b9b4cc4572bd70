from __future__ import annotations

import http.server
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from rich.console import Console

from rootfs.base.cache import Cache
from rootfs.base.tools_tree import Confined, Tools
from rootfs.engines.buildroot.output import Output
from rootfs.engines.buildroot.source import Source
from tests.unit.rootfs.fake_buildroot import LocalMakeEnvironment, make_tree

Program = Callable[[str, str], Path]


class FakeTools(Tools):
    """Records what is run in the tools tree, and lets a test do the work instead."""

    def __init__(self, work: Callable[[list[str], Path], str] = lambda _command, _build: "") -> None:
        super().__init__(Path("/no/tools/tree"))
        self.commands: list[list[str]] = []
        self._work = work

    def run(
        self,
        command: Sequence[str | Path],
        *,
        build: Path,
        env: dict[str, str] | None = None,
        shown: Sequence[tuple[Path, Path]] = (),
        epoch: bool = True,
        confined: Confined | None = None,
        on_line: Callable[[str], None] | None = None,
        stdin: BinaryIO | None = None,
    ) -> str:
        words = [str(word) for word in command]
        self.commands.append(words)
        return self._work(words, build)


class Desk:
    """A cache in a folder and what it has said."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._output = io.StringIO()

    def cache(self) -> Cache:
        """A cache as a new `invoke` would have it."""
        return Cache(self.directory, Console(file=self._output, width=200))

    @property
    def said(self) -> str:
        """Everything said since the last look."""
        text = self._output.getvalue()
        self._output.seek(0)
        self._output.truncate()
        return text


@contextmanager
def serve(directory: Path) -> Iterator[str]:
    """The address at which a directory's files can be had, on this machine."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(directory))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "cache")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a shell script of that name before everything else on PATH."""
    directory = tmp_path / "fake-bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    def write(name: str, script: str) -> Path:
        file = directory / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    return write


@pytest.fixture
def buildroot(tmp_path: Path) -> Source:
    """A small tree in the place of Buildroot's."""
    return make_tree(tmp_path / "tree")


@pytest.fixture
def output(buildroot: Source, tmp_path: Path) -> Output:
    """An output directory of it, configured."""
    config = tmp_path / "small.config"
    config.write_text("BR2_x86_64=y\n")
    directory = tmp_path / "out"
    directory.mkdir()
    made = Output(
        buildroot,
        [config],
        directory,
        LocalMakeEnvironment(buildroot.directory, directory, tmp_path / "dl", tmp_path / "ccache"),
    )
    made.configure()
    return made

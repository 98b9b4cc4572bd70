"""Inputs of the fuzz targets are made, not kept: each target has some, and none is lost on the way to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import run, seeds


@pytest.mark.parametrize("target", run.TARGETS, ids=[target.name for target in run.TARGETS])
def test_every_target_has_seeds(tmp_path: Path, target: run.Target) -> None:
    seeds.write(target.name, tmp_path / "seeds")
    written = {path.name: path.read_bytes() for path in (tmp_path / "seeds").iterdir()}
    assert len(written) > 50
    assert len(written) == len(list(seeds.MAKERS[target.name]())), "two have one name"
    assert max(map(len, written.values())) <= target.longest, "libFuzzer would cut it off"


def test_what_fuzzing_found_is_tried_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "FOUND", tmp_path / "found")
    (tmp_path / "found/policy").mkdir(parents=True)
    (tmp_path / "found/policy/crash").write_bytes(b"once")
    seeds.write("policy", tmp_path / "seeds")
    assert (tmp_path / "seeds/found-crash").read_bytes() == b"once"

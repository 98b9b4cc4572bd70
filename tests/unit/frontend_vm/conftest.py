from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.frontend_vm.keys import make_configuration


@pytest.fixture(scope="package")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("frontend")
    make_configuration(directory)
    return directory

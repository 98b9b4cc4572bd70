"""Shared by the tests that need what `invoke image` built; quick ones use none of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import pytest
from rich.console import Console

from driver.appliance import Api, first_password, wait_managed
from driver.errors import MachineError
from driver.machine import QemuMachine
from driver.ports import Forward, free_port
from driver.shell import HostShell, wait_host_shell
from driver.steps import step
from rootfs import build as images
from rootfs import tasks
from rootfs.artifact.imagefile import open_image
from rootfs.base.cache import Cache
from rootfs.base.package_sets import PackageSets
from rootfs.base.scratch import place
from rootfs.base.tools_tree import Tools
from rootfs.build import Built, Recipe
from rootfs.spec import profile
from tests import medium
from tests.timing import Timing

tempfile.tempdir = str(place())
"""Sockets of tests have paths below it, and other users' processes work there."""
ODD_NAMES = (
    "comma,in it",
    "colon:semi;colon",
    "quotes'\"`",
    "dollar$HOME $(id) %s",
    "line\nfeed",
    "ümläut 目录",
    "@@5 [a] {b} *?",
    "/".join(["d" * 50] * 4),
)
"""Directories that users have; the last is too long for a socket."""
CONSOLE = Console(stderr=True)
JOURNAL = "journalctl --no-pager -o short-monotonic -r -n 60 -u 'sallyport-*'"
"""The newest first: who shows a part of a long report shows its beginning."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Any image has to pass the same tests."""
    parser.addoption(
        "--engine", default="debian", choices=("debian", "buildroot"), help="what makes the images that are tested"
    )
    parser.addoption(
        "--mutants",
        type=int,
        metavar="SEED",
        help="plant only a tenth of the mutants, drawn by this seed",
    )
    parser.addoption(
        "--built",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="what the caller spent on builds before, for the table of times at the end",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Take the times of this run."""
    config.pluginmanager.register(Timing(images.OUT / "test-times.json", config.getoption("--built")), "times")


def pytest_report_header(config: pytest.Config) -> str:
    """Whoever sees a failure plants the same ones again."""
    seed = config.getoption("--mutants")
    which = "all" if seed is None else f"a tenth, drawn by --mutants {seed}; `invoke test --all` plants all"
    return f"mutants: {which}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """To a failure on an appliance add what its host's journal says: the appliance is gone when somebody asks."""
    report = yield
    appliance = getattr(item, "funcargs", {}).get("appliance")
    if report.when == "call" and report.failed and isinstance(appliance, Appliance):
        try:
            journal = appliance.host.check(JOURNAL)
        except MachineError as error:
            journal = f"not to be had: {error}"
        report.sections.append(("the host's journal", journal))
    return report


@pytest.fixture(scope="session")
def package_sets() -> PackageSets:
    """The package sets that the build uses, in the project's cache."""
    return PackageSets(Cache(images.CACHE, CONSOLE))


@pytest.fixture(scope="session")
def tools(package_sets: PackageSets) -> Tools:
    """The tools tree."""
    return package_sets.tools


@pytest.fixture(scope="session")
def made_by(pytestconfig: pytest.Config) -> str:
    """The engine that makes the images."""
    return str(pytestconfig.getoption("--engine"))


@pytest.fixture(scope="session")
def build_image(made_by: str) -> Callable[[Recipe], Built]:
    """Makes an image by that engine."""

    def build(recipe: Recipe) -> Built:
        with step("build", recipe.name):
            return tasks.make(recipe, made_by)

    return build


@pytest.fixture(scope="session")
def release(build_image: Callable[[Recipe], Built]) -> Built:
    """The release image of profile qemu."""
    return build_image(Recipe(profile.load("qemu")))


@pytest.fixture(scope="session")
def testing(build_image: Callable[[Recipe], Built]) -> Built:
    """The test image of profile qemu."""
    return build_image(Recipe(profile.load("qemu"), test_access=True))


@dataclass
class Appliance:
    """A managed appliance: UI up, password known, root shell on the host."""

    machine: QemuMachine
    forward: Forward
    host: HostShell
    password: str
    boot_seconds: float

    def api(self) -> Api:
        """The REST API with an open session."""
        api = Api(self.forward.https)
        api.login(self.password)
        return api


@pytest.fixture(scope="module")
def appliance(tools: Tools, testing: Built) -> Iterator[Appliance]:
    """The test image, flashed onto a used disk, booted and managed; one for each module of tests."""
    forward = Forward(free_port(), free_port(), free_port())
    image, flashed, log = open_image(testing.image), images.OUT / "test-flashed.disk", images.OUT / "test-serial.log"
    medium.fill(flashed, medium.pattern(testing.image.stat().st_size))
    medium.flash(tools, testing.image, flashed)
    try:
        with QemuMachine(tools, image, forward=forward, persist=flashed, log=log) as machine:
            machine.run()
            seconds = wait_managed(machine, Api(forward.https))
            host = wait_host_shell(machine.shell_socket)
            yield Appliance(machine, forward, host, first_password(machine), seconds)
            host.close()
    finally:
        flashed.unlink()

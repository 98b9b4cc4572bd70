"""The floods: what is concluded from figures, and the scripts themselves in a network namespace of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from backend.daemon.settings import Settings
from proof.inside import flood, host_work
from proof.inside.flood import COUNTERS, FLOODS, Answers, Report, counters, judge, run_flood
from proof.inside.host_work import Window, Work, attribute_work
from proof.result import Result, Verdict
from rootfs.base.errors import SallyportError
from tests.unit.backend.certificates import make_link_keys

GOOD = Answers(times=[0.01] * 9, failed=[])
REPORT = Report(rest=GOOD, during=GOOD, tried=90000, sent=80000, delay=4.1, seconds=6.0, after=0.2)
RISEN = {"other": 70000, "link0": 80000, "tx_": 5}
WORKED = Work(rests=(100.0, 90.0), during=60.0, most=65.0)


def verdict(*, work: Work = WORKED, risen: dict[str, int] = RISEN, **changes: object) -> Verdict:
    return judge(FLOODS[0], msgspec.structs.replace(REPORT, **changes), work, risen)[0]


def test_verdicts() -> None:
    assert verdict() is Verdict.SEALED
    assert verdict(after=None) is Verdict.HOLE
    assert verdict(work=Work((100.0, 90.0), 20.0, 25.0)) is Verdict.HOLE
    # All that was measured of the flood was one long gap.
    assert verdict(work=Work((100.0, 90.0), None, 3.0)) is Verdict.HOLE
    # Without the flood, or without rest, there is nothing to compare.
    assert verdict(sent=10) is Verdict.NOT_TESTED
    assert verdict(risen={"other": 10, "link0": 80000}) is Verdict.NOT_TESTED
    assert verdict(work=Work((100.0,), 60.0, 65.0)) is Verdict.NOT_TESTED
    assert verdict(work=Work((), None, None)) is Verdict.NOT_TESTED
    assert verdict(work=Work((100.0, 90.0), None, 60.0)) is Verdict.NOT_TESTED
    assert verdict(rest=Answers(times=[], failed=["refused"])) is Verdict.NOT_TESTED
    # Half of one rest and a twentieth of the other: a machine with other things to do.
    assert verdict(work=Work((40.0, 400.0), 20.0, 25.0)) is Verdict.NOT_TESTED
    # Slow rests must not make a starved host look well.
    assert verdict(work=Work((100.0, 8.0), 6.0, 7.0)) is Verdict.NOT_TESTED


def test_the_evidence_has_the_figures() -> None:
    _, evidence, control = judge(FLOODS[0], REPORT, WORKED, RISEN)
    assert "100/90 jobs/s at rest, 60 in the flood (0.60)" in evidence
    assert "10 ms" in evidence
    assert "0.20 s after it" in evidence
    assert control == "80000 frames left the NIC (13333/s); the host counted 70000 at other"


def series(*rates: tuple[float, float]) -> list[tuple[float, int]]:
    """Half seconds: ``rates`` are pairs of seconds and jobs per second."""
    answer, now = [], 0.0
    for seconds, rate in rates:
        for _ in range(round(2 * seconds)):
            now += 0.5
            answer.append((now, round(rate / 2)))
    return answer


# The series begins between 0 and 1 on the tester's clock; the flood at 5 to 6, for 6 s; the end is known at 13.
WINDOW = Window(called=0.0, started=1.0, since=0.0, begins=5.0, on=6.0, off=11.0, over=13.0, until=19.0)


def test_half_seconds_count_where_they_surely_lie() -> None:
    work = attribute_work(series((5, 100), (6, 40), (7, 80)), WINDOW)
    assert work.rests == (100.0, 80.0)
    assert work.during is not None
    assert 40 <= work.during < 50  # some of what lies between may be of the rest
    assert work.most is not None
    assert work.during <= work.most < 75


def test_what_may_have_been_flood_already_is_no_rest() -> None:
    # If the series began a second late, its fifth second was the flood's first.
    work = attribute_work(series((4, 100), (7, 40), (7, 80)), WINDOW)
    assert work.rests[0] == 100.0


def test_the_rest_between_two_floods_counts_for_both_and_what_is_beyond_it_for_neither() -> None:
    """The other floods are before ``since`` and after ``until``; there the host does little."""
    window = replace(WINDOW, since=2.0, until=17.0)
    work = attribute_work(series((2, 1), (3, 100), (6, 40), (5, 80), (2, 1)), window)
    assert work.rests == (100.0, 80.0)


def test_a_host_that_stands_still_has_one_long_interval() -> None:
    # One job from 4.5 to 12: no half second lies within the flood.
    stalled = [*series((4.5, 100)), (12.0, 1), *((12.0 + at / 2, 50) for at in range(1, 13))]
    work = attribute_work(stalled, WINDOW)
    assert work.during is None
    assert work.most is not None
    assert work.most < 0.5 * 100
    assert verdict(
        work=attribute_work([(end, jobs if end <= 4.5 or end > 12 else 0) for end, jobs in stalled], WINDOW)
    ) is (Verdict.HOLE)


def test_a_series_that_did_not_see_the_flood_says_nothing() -> None:
    assert attribute_work(series((4, 100)), WINDOW).most is None
    assert attribute_work([], WINDOW) == Work((), None, None)
    # The shell took so long that the flood may have been over before it surely was on.
    late = replace(WINDOW, on=12.0)
    work = attribute_work(series((18, 100)), late)
    assert work.during is None
    assert work.most is None


LISTED = """123456
table inet host {
\tcounter link_limited {
\t\tpackets 17 bytes 1020
\t}
}
table netdev link {
\tcounter other {
\t\tpackets 99 bytes 5940
\t}
}
mgmt0  52:54:00:00:00:01  carrier  ring -> vhost-user (up)
  rx_passed                       11 frames              700 bytes
  tx_passed                       12 frames              720 bytes
  tx_rate                       3000 frames           180000 bytes
  VM stopped for nothing: 0
"""


def test_counters_are_read_and_noise_is_not() -> None:
    assert counters(LISTED) == {"link0": 123456, "link_limited": 17, "other": 99, "tx_": 3012}
    assert counters("sh: nft: not found") == {"tx_": 0}
    assert counters("\0" * 100 + "counter x { packets " + "9" * 500 + " b }") == {"tx_": 0}


def test_what_cannot_be_run_or_read_is_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flood, "TRIES", 1)

    def gone(command: str, timeout: float = 0) -> tuple[int, str]:
        raise SallyportError("gone")

    def noise(command: str, timeout: float = 0) -> tuple[int, str]:
        return 0, "noise"

    for vm in (gone, noise):
        for host in (gone, noise):
            results = run_flood(vm, host, floods=FLOODS[:2])
            assert {result.verdict for result in results} == {Verdict.NOT_TESTED}


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
@pytest.mark.parametrize(
    ("broken", "expected"),
    [("", Verdict.SEALED), ("deaf", Verdict.HOLE)],
)
def test_a_real_flood(tmp_path: Path, broken: str, expected: Verdict) -> None:
    """Everything but the VM: sender, host's work and backend share a machine, so the host's share means little."""
    code = f"from tests.unit.proof.test_flood import inside; inside({str(tmp_path)!r}, {broken!r})"
    # /sys shows the interfaces of the namespace that it was mounted in.
    setup = "mount -t sysfs hb2 /sys && ip link set lo up && ip link add hb2l type veth peer name hb2p"
    setup += " && ip link set hb2l up && ip link set hb2p up"
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", f'{setup} && exec "$0" -c "$1"', sys.executable, code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["verdict"] == expected, result
    assert "frames left the NIC" in result["control"]


def inside(folder: str, broken: str) -> None:
    """Flood hb2l in this namespace, where a real backend listens on loopback; print the result."""
    from tests.unit.proof.test_misuse import serving

    root = Path(folder)
    link = root / "link"
    link.mkdir()
    (root / "data").mkdir(mode=0o700)
    (root / "request").mkdir()
    make_link_keys(link)
    for end in ("key", "crt"):
        shutil.copy(link / f"frontend.{end}", link / f"link.{end}")
    for name, value in (("FLOOD_S", 1.6), ("REST_S", 1.2)):
        setattr(flood, name, value)
    flood.RECOVERY = 3.0
    host_work.COVERED_S = 0.4
    host_work.WORK_FILE = str(root / "work")
    # How much the sender takes from the work is this machine's affair.
    flood.SHARE = 0.001
    settings = Settings.under(root, link=link, connect_burst=500.0, request_burst=1000.0)
    with serving(settings) as running:
        (result,) = run_flood(
            local, host(stop=stopper(root) if broken == "deaf" else None),
            settings=running, folder=str(link), floods=FLOODS[:1], names={"link": "hb2l"},
        )  # fmt: skip
    print(json.dumps({name: str(getattr(result, name)) for name in Result.__slots__}))
    os._exit(0)


def stopper(root: Path) -> Callable[[], None]:
    """Return what makes the backend deaf."""
    from backend.daemon.server import LinkServer

    def stop() -> None:
        async def connection(self: LinkServer, *arguments: object) -> None:
            arguments[0].close()  # type: ignore[attr-defined]

        LinkServer._connection = connection  # type: ignore[method-assign, assignment]

    return stop


def local(command: str, timeout: float = 60.0) -> tuple[int, str]:
    done = subprocess.run(
        ["sh", "-c", command.replace("python3", sys.executable, 1)],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def host(*, stop: Callable[[], None] | None) -> Callable[[str], tuple[int, str]]:
    """Return a host's shell whose counters are those of the veth."""

    def run(command: str) -> tuple[int, str]:
        if command != COUNTERS:
            if stop is not None:
                # After the rest, before the end.
                threading.Timer(2.0, stop).start()
            return local(command)
        frames = int(Path("/sys/class/net/hb2p/statistics/rx_packets").read_text())
        return 0, f"{frames}\n\tcounter other {{\n\t\tpackets {frames} bytes 1\n"

    return run

"""Tasks of the proof: `invoke verify`, `invoke verify.check`."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from invoke import Context, task

from rootfs.base.cli_errors import NEWEST, build_task, report_errors
from rootfs.base.cli_errors import console as _console
from rootfs.build import OUT, Recipe
from rootfs.spec import profile as profiles
from rootfs.tasks import PROFILE, WAY_HELP, build, make, package_sets


@task(
    help=NEWEST
    | {
        "image": "image file to prove; built if it is not named",
        "profile": "device profile to build when no image is named; with --interface that of the device",
        "way": WAY_HELP,
        "quick": "sample long lists, for every commit; a full run is for releases",
        "seed": "seed of every random choice; printed and reported",
        "outside-only": "leave out the probes from inside the VM (the verdict is then at best `not-tested`)",
        "report": "directory for report.html, report.json, junit.xml, captures and the statement",
        "key": "PEM private key that signs the statement; its passphrase in SALLYPORT_KEY_PASSPHRASE",
        "json": "print the report as JSON",
        "interface": "run the probes from outside at a real device behind this network interface",
        "mac": "with --interface: the VM's MAC, in place of confirming it at the terminal",
        "port-mac": "with --interface: the burned-in MAC of the device's port, if it is known",
        "power-cycle": "with --interface: watch the device from power-on; you are asked to switch it",
    },
)
@build_task
def verify(
    _: Context,
    image: str = "",
    profile: str = PROFILE,
    way: str = "",
    quick: bool = False,
    seed: int = -1,
    outside_only: bool = False,
    report: str = "",
    key: str = "",
    json: bool = False,
    interface: str = "",
    mac: str = "",
    port_mac: str = "",
    power_cycle: bool = False,
) -> None:
    """Prove that the VM is the only way in. Exit code: 0 sealed, 3 hole found, 4 could not test."""
    import proof.device
    import proof.verify
    from proof.report.json_form import to_json
    from proof.report.publish import publish
    from proof.report.signing_key import require_key
    from proof.report.summary import print_summary
    from proof.result import exit_code
    from proof.stages import Effort
    from rootfs.artifact import imagefile

    if key:
        require_key(Path(key))
    effort = Effort(seed=random.SystemRandom().randrange(2**32) if seed < 0 else seed, quick=quick)
    if interface:
        device = profiles.load(profile, way)
        folder = Path(report) if report else OUT / "verify" / f"{device.name}-{interface}"
        power = proof.device.ManualPower(_console) if power_cycle else None
        ask = _console.input if sys.stdin.isatty() else None
        result = proof.device.prove(
            device, interface, effort, folder=folder, console=_console, mac=mac, port_mac=port_mac, power=power, ask=ask
        )
    else:
        subject = imagefile.open_image(Path(image) if image else build(profile, way).image)
        proof.verify.check_sums(subject)
        inner = (
            None
            if outside_only
            else proof.verify.test_variant(subject, lambda d: make(Recipe(d, test_access=True), subject.engine))
        )
        folder = Path(report) if report else OUT / "verify" / subject.name
        result = proof.verify.verify(package_sets(subject.profile.arch), subject, inner, folder, _console, effort)
    files = publish(result, folder, Path(key) if key else None)
    if json:
        print(to_json(result))
    else:
        print_summary(result, _console)
        _console.print("  ".join(f"{kind}: {path}" for kind, path in files.items()), style="dim")
    sys.exit(exit_code(result.results))


@task(
    help={
        "statement": "the signed statement of a run: statement.dsse.json beside its report",
        "image": "the image that it must be about",
        "public-key": "PEM public key of who signed it",
    }
)
@report_errors
def check(_: Context, statement: str, image: str, public_key: str) -> None:
    """Check a signed statement: signature, image, report and captures. Exit code as of the run that it is about."""
    import proof.report.statement

    checked = proof.report.statement.check(Path(statement), Path(image), Path(public_key))
    proof.report.statement.show(checked, _console)
    sys.exit(checked.exit_code)

"""A box without virtualization: the VM is emulated there, and its page comes up all the same.

The emulated VM runs on an emulated host, so that each of its instructions costs some hundred: it is the release image,
whose VM has nothing but the front-end to start. `test_managed` has the box with virtualization, where it is under KVM.
"""

from __future__ import annotations

import pytest

from driver.appliance import Api, first_password, wait_managed
from driver.machine import QemuMachine
from driver.ports import Forward, free_port
from rootfs import build as images
from rootfs.artifact.imagefile import open_image
from rootfs.base.tools_tree import Tools
from rootfs.build import Built

pytestmark = pytest.mark.qemu

PLAIN = "qemu64,-svm"
"""A processor without virtualization. `qemu64` alone has AMD's, but no nested paging."""
BOUND_S = 700.0
"""From power-on to the page. It took 320 on a machine that did other things, too: 30 to the start of the VM, the rest
for code that runs for the first time, which both emulators translate, the inner one at a fiftieth of its speed."""
ANSWER_S = 20.0
"""For each answer: the VM does everything for the first time, and translates it."""


def test_a_box_without_virtualization_has_its_page_and_says_what_runs_the_vm(tools: Tools, release: Built) -> None:
    forward, log = Forward(https=free_port()), images.OUT / "plain-serial.log"
    with QemuMachine(tools, open_image(release.image), forward=forward, log=log, cpu=PLAIN) as machine:
        machine.run()
        api = Api(forward.https)
        print(f"UI after {wait_managed(machine, api, BOUND_S, ANSWER_S):.0f} s")
        body = {"user": "admin", "password": first_password(machine)}
        assert api.request("POST", "/session", body, timeout=ANSWER_S)[0] in (200, 201)
        status, body = api.request("GET", "/status", timeout=ANSWER_S)
        told = body["machine"]
        assert (status, told["state"], told["accelerator"], told["starts"]) == (200, "running", "tcg", 1)
        assert "no usable /dev/kvm" in told["accelerator_reason"]

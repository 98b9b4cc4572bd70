"""A box without virtualization: the VM is emulated there, and its page comes up all the same.

The emulated VM runs on an emulated host, so that each of its instructions costs a hundred. `test_managed` has the box with
virtualization, where the VM is under KVM.
"""

from __future__ import annotations

import pytest

from rootfs import image as images
from rootfs.image import Built
from rootfs.imagefile import open_image
from rootfs.tools import Tools
from tests.conftest import JOURNAL
from tests.qemu.appliance import Api, first_password, wait_managed
from tests.qemu.machine import Forward, Machine, MachineError, free_port
from tests.qemu.shell import wait_host_shell

pytestmark = pytest.mark.qemu

PLAIN = "qemu64,-svm"
"""A processor without virtualization. `qemu64` alone has AMD's, but no nested paging."""
BOUND = 420.0
"""Seconds from power-on to the page; it took 240 on an idle machine."""


def test_a_box_without_virtualization_has_its_page_and_says_why_it_is_slow(tools: Tools, testing: Built) -> None:
    forward, log = Forward(https=free_port()), images.OUT / "plain-serial.log"
    with Machine(tools, open_image(testing.image), forward=forward, log=log, cpu=PLAIN) as machine:
        machine.run()
        host = wait_host_shell(machine.shell_socket)
        try:
            seconds = wait_managed(machine, Api(forward.https), BOUND)
        except MachineError as error:
            pytest.fail(f"{error}\n{host.check(JOURNAL)}")
        print(f"UI after {seconds:.0f} s")
        api = Api(forward.https)
        api.login(first_password(machine))
        told = api.get("/status")["machine"]
        assert (told["state"], told["accelerator"], told["starts"]) == ("running", "tcg", 1)
        assert "no usable /dev/kvm" in told["accelerator_reason"]
        # Nor do two programs share a core, though the kernel knows of no fault of this processor.
        assert host.check("cat /sys/devices/system/cpu/smt/control") == "forceoff"
        assert host.check("cat /sys/devices/system/cpu/online") == "0,2"
        host.close()

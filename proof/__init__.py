"""The proof: shows on one image, or on one device, that the front-end VM is the only way in.

Theory of operation. A `wire` is an Ethernet segment as the tester sees it: the management port outside, or a NIC inside
the VM. Its reader thread records every frame and hands each, parsed once, to the frame log (who has sent anything since
power-on?) and to the probes that wait. A probe that must stay unanswered is sent among controls: one frame in sixteen
is a SYN, or a datagram to a closed port, whose answer is certain. Silence counts only in a batch in which every such
control was answered. `wire.judge` decides from a frame alone whether the appliance may send it; one that it may not is
a hole, whichever probe provoked it. What is not a frame (files, processes, rules, devices) is compared with a declared
table, by a check that first has to find something that was planted, or something that must be there. A probe whose
control was not seen reads "not-tested", never "sealed".

Where to find what (each folder imports only from those above it in this list; tests/unit/test_layers.py holds that):

    result, progress      one probe's outcome and verdict; how a long part reports its progress
    remote_script         a Python program that is sent to a root shell of the VM or host, and its checked answer
    declared/             declarations that several folders compare with: packet rules, kernel settings
    wire/                 frames, the segments that carry them, captures, and which frames may exist
    scan/                 sending many frames between controls: pace, batches, sweeps over port and protocol numbers
    outside/              probes at the management port: catalogue, sweeps, from power-on, the forwarder's counters
    inside/               probes from a root shell in the VM: link, devices, instructions, floods, forwarding, spoofing
    host/                 checks on the running host: listening sockets, audit log, and system/ for everything else
    image/                checks of the flash image's bytes: tree/ for files, flash/ for partitions, the rebuilt image
    report/               JSON, JUnit, HTML page, signed statement
    rig, stages, verify   an image in QEMU: booted once, and restored before each stage of probes
    identity, device      a real device behind a network interface
    tasks                 `invoke verify` and `invoke verify.check`

docs/contribute/add-a-probe.md and add-a-mutant.md show the steps of adding to it.
"""

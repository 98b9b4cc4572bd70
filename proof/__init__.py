"""The proof: frames thrown at a running image, each negative probe beside a positive control.

Theory of operation. A `wire` is an Ethernet segment as the tester sees it: the management port outside, or a
NIC inside the VM. Its reader thread records every frame and hands each, parsed once, to a `ledger` (who has
spoken since power-on?) and to the probes that wait. Whatever a probe sends is clocked by `pace`: one frame in
sixteen is a SYN, or a datagram to a closed port, whose answer is certain, and silence is only believed in a
batch in which every such control was answered. `judge` decides from a frame alone whether it may exist; a frame
that may not is a hole, whoever provoked it. What is not a frame (files, processes, rules, devices) is compared
with a declared table, by a check that is seen to find something planted, or something that must be there.
A probe whose control stayed unseen reads "not-tested", never "sealed".
"""

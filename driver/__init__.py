"""The QEMU driver: how `run`, the proof and the tests drive an appliance in QEMU."""

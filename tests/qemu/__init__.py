"""Boots appliance images in QEMU: the file, the machine, its shells, the appliance as tests see it."""

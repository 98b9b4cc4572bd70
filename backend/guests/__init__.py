"""Guests of the host: the front-end VM's QEMU command line and its supervision."""

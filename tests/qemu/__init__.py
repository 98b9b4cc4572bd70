"""Tests that boot an image in QEMU."""

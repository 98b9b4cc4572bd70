"""Probes from a root shell inside the VM."""

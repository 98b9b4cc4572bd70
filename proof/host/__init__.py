"""Probes on the running host."""

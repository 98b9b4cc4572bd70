"""Probes of the bytes of a flash image."""

"""Probes from outside, at the management port."""

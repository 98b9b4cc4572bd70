"""Builds the host image: engines, trees, initial RAM file system, verified root, disk."""

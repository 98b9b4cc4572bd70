"""Benchmarks: how long the build and the appliance take, and how big the image is. Nothing here fails by a figure."""

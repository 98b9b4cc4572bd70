"""Files laid over the root file systems; ``*.j2`` are rendered from the device profile (rootfs/tree/overlay.py)."""

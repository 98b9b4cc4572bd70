"""Frames, the Ethernet segments that carry them, captures of both, and which frames may exist."""

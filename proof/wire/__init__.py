"""Frames and the segments that carry them: what every probe on a network is made of."""

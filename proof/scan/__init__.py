"""Sending many frames so that silence can be believed: controls, pace, batches of frames, sweeps over numbers."""

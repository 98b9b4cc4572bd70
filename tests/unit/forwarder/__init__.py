"""Tests of the frame forwarder."""

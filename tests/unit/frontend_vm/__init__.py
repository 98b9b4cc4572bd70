"""Tests of the front-end, run in-process against a small backend with the real schema and real TLS."""

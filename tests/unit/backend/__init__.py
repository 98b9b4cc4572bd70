"""Tests of the backend daemon."""

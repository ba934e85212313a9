"""Tests of pytest-llem."""

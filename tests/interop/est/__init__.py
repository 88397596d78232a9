"""Tests of est."""

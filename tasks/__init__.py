"""Resumable units of work: load, compute, commit, return a small record."""

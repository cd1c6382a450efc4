"""Sampling policies, one per file; a file's name is the policy's name."""

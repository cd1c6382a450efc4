"""Ordered consumption of a series of episodes."""

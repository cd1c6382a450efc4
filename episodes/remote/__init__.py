"""Stores and episode shards at a url: read through a local cache with hash checks, and uploaded, by fsspec."""

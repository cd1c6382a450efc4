"""Readers of raw data, one format or data set per file; a file's name is the reader's name."""

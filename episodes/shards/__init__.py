"""Episode shards: episodes written down as WebDataset tar files that any program reads, and read back as a series."""

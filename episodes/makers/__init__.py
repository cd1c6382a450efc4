"""Data sets that are computed when they are read, one a file. `episodes.protocols.Maker` says what one is."""

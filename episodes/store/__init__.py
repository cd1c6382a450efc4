"""The class-indexed sample store: written once, then read by memory-mapping."""

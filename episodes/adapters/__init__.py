"""Episodes as tensors of a framework, one framework per file."""

"""Meta-learners, one method per file; a file's name is the method's name."""

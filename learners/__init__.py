"""Meta-learning on torch: learners, the trainer, and evaluation that can be believed."""

"""Processes and machines: ranks, engines, checkpoints. Knows nothing of GANs."""

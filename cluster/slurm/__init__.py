"""Slurm: requests, scripts, the queue, and the place of a process in its job. Needs no torch."""

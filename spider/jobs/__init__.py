"""Commands of `spider` as jobs on Slurm or on this machine, and chains of them."""

"""Jobs: commands that run on Slurm or on this machine, start again by themselves, and tell what has happened."""

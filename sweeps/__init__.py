"""Many runs or many datasets at once: neighbour search."""

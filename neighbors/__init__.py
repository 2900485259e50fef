"""Which datasets are friendly neighbours of a target: the search, its workers and its report."""

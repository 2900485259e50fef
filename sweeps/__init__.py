"""Many trainings that differ in a few keys, on Ray, and what came of them."""

"""What weights a run begins with."""

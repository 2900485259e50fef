"""GANs of points in a plane: what a method does, seen in a minute. Built from the trainer, not beside it."""

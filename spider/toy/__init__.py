"""GANs of points in a plane: what a method does, seen in two minutes. Built from the trainer, not beside it."""

"""What both players are told of an image: one file per choice, settings in `config`, `build` from one to the other."""

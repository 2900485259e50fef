"""How good the images are: distances between two sets of images, each with the protocol that its number hangs on."""

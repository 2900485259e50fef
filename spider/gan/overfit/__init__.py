"""How far the discriminator has overfitted, as a number p that grows while it has."""

"""What images go through on their way to the discriminator: one file per augmentation.

An augmentation of real and generated images alike hides what the discriminator would learn by heart.
"""

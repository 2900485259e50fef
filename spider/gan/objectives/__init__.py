"""What the players minimise: one file per adversarial objective, and the gradient penalties.

Real is high: every objective here is written for a discriminator whose logit grows with realism.
"""

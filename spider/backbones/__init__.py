"""Pretrained networks that judge images, and that discriminators may look through: no rule of input here."""

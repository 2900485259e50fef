"""Generators and discriminators: one file per family, their settings in `config`."""

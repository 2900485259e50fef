"""Signed inception distance: how far a source's features lie from a target's, and on which side in diversity."""

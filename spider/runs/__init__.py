"""Runs: their folders, what they read from outside, and the finished generators in them."""

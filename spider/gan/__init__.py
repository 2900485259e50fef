"""The axes of choice: each folder is one, with its settings, its choices and what builds them."""

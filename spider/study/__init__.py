"""A matched comparison of named variants: what is trained and measured, where, and the page of what came out."""

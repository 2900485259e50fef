"""The whole story on built-in data: what `spider demo` does, and the page that tells of it."""

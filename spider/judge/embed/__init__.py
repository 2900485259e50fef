"""Images to feature vectors: what an embedding is, which there are, and how features are extracted and kept."""

"""What images are worth: embeddings, metrics, the signed Inception distance, and tables of runs by them."""

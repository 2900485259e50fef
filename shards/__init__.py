"""Images in, tensors out: WebDataset shards read by index. Knows nothing of GANs."""

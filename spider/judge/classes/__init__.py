"""What EfficientNet-Lite0 knows of the classes of a dataset (`spider classes`)."""

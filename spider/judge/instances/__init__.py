"""Banks of instances: features of all images of a dataset, and the nearest images of each (`spider instances`)."""

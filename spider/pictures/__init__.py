"""Pictures to look at: single images, grids, walks between images."""

"""Draws and carries out augmentations of batches of images in one pass."""

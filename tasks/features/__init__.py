"""Features of a data set's images, batch by batch, and large arrays on disk."""

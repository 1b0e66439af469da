"""Images with labels from disk, for any task."""

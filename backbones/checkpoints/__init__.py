"""Checkpoint files, in and out."""

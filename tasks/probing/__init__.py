"""Evaluation on features that are extracted once and kept: k-nearest neighbours, and many linear heads at once."""

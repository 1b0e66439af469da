"""Definitions and records make a table."""

"""What runs leave on disk, and how it is read: ``record.json``, ``speed.json``, ``status.json``."""

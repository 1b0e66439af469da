"""A filled table as text, page or picture: add a format here."""

"""Exit codes of the command line; docs/resume.md lists them."""

from __future__ import annotations

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 75

"""From a request to jobs, and a job from its start to its record."""

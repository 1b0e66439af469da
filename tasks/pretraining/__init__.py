"""MAE pre-training as a task of the engine."""

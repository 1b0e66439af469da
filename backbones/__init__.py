"""Encoders: MAE pre-training, checkpoints in and out, fine-tuning rules. Imports nothing of ours."""

"""Image classification: fine-tuning, linear probe, from scratch."""

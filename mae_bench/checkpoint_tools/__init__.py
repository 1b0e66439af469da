"""What is done with a checkpoint file alone: inspect, extract, reconstruct."""

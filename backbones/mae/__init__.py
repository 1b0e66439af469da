"""The masked autoencoder: masking, targets, tokenizer, model."""

"""The plain ViT encoder and its adaptations."""

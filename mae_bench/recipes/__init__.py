"""Finding, loading, overriding, scaling and hashing recipes; imports neither torch nor timm."""

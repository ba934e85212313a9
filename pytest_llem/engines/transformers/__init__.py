"""Backend ``pytorch``: models of the transformers library. Start with ``engine``."""

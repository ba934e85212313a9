"""What engines share that serve many sequences at a time. Start with ``engine``."""

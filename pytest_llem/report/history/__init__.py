"""The page of all saved runs, ``--llem-history``."""

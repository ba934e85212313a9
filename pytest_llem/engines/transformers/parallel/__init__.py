"""One model in several processes, each with its part of every layer. Start with ``model``."""

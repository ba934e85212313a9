"""Prompts before they are tokens: from files to entries, and how long they are. Start with ``entries``."""

"""Boards of NVIDIA: which there are, who uses them, what their sensors say."""

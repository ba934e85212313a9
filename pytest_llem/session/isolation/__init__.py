"""Experiments in processes of their own: ``parent`` and ``child`` talk over a ``process``, as ``reruns`` do."""

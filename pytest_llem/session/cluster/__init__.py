"""``--llem-ray``: a session's experiments as tasks of a Ray cluster. Nothing else imports Ray.

``plugin`` divides them by load, reports and counts; ``connection`` is the cluster; ``worker`` runs on its machines, and
``messages`` go between them.
"""

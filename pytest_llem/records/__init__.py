"""What was measured, as it is kept: the ``record``, its ``rows`` in pytest-benchmark, and what makes two comparable."""

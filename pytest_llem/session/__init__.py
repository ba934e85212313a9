"""One pytest session: its ``state``, the ``journal``, resuming, shards, merging, gates at its end, child processes."""

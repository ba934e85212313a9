"""The energy counter of a board: when it is updated, how it behaves, its energy over a window."""

"""Experiment files that nobody wrote: whatever they hold, each ends as items or as one line that says what is wrong."""

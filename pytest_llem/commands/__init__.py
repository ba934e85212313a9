"""What prints something and measures nothing: the plan of a session, what this machine can measure."""

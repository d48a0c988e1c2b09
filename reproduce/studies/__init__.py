"""Studies: questions about the method itself, answered by a script that writes a record."""

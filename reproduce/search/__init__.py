"""The search stage: one class a method."""

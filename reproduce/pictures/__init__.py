"""Pictures of networks and searches, and what all pictures share."""

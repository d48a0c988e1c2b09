"""Search engines over encoded architectures; they know nothing of networks."""

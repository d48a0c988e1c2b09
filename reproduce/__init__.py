"""The protocol: data, budgets, runs, measures, records and tables."""

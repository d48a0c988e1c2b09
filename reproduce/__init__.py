"""The protocol: data, budgets, runs, measures, records and tables."""

import os

# Two OpenMP threads that spin at barriers beside a decoding process slow each other down tenfold; let them sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# torch asks for huge pages where tensors are large: far fewer page faults.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

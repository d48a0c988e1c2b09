"""``python -m reproduce``."""

import os

# Two OpenMP threads that spin at barriers beside a decoding process slow each other down tenfold; let them sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from reproduce.cli import main

main()

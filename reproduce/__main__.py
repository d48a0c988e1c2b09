"""``python -m reproduce``."""

import os

# Two OpenMP threads that spin at barriers beside a decoding process slow each other down tenfold; let them sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# torch asks for huge pages where tensors are large: a sixth of the time of X3D-M's 30 views.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from reproduce.cli import main

main()

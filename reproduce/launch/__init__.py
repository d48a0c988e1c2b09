"""How runs are started: one after the other, side by side, on ranks of several GPUs, on a cluster."""

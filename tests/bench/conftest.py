"""Saved timings say what the machine is, not which."""


def pytest_benchmark_update_machine_info(config, machine_info):
    """Leave out the machine's name."""
    machine_info.pop("node", None)

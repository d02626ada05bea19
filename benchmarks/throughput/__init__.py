"""The parts of `data_throughput.py`; each contender runs in a process of its own, see `worker`."""

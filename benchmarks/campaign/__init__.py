"""What `faults.py` and `cluster_scale.py` are made of: machines and a store on loopback, drivers
that may be killed, faults, and what has to be true after them.
"""

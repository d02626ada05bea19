"""Where trials run: what the machine or the cluster has, and a Ray session on it."""

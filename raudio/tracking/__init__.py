"""Trackers: where a run can be watched beside its own records.

`records.jsonl` is always written, by the driver, and holds everything. A tracker is fed from it, by
a process of its own that reads the records as they grow (`follow`). So no tracker, slow, failing or
hanging, is ever in a search's way, and what one has missed can be sent at any time later. The
driver starts these processes and waits for them at the end, not for long (`processes`).
"""

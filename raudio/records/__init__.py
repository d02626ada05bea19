"""The run folder: its layout, its records, its lock.

`records.jsonl` is the one source for status, report, resume and export: one JSON object a line,
written by the driver alone, only ever appended to. Each has `event` and `time` (Unix seconds):

| event | fields |
| --- | --- |
| search_start | version, resumed, metric, mode, objectives, limits, trials, time_budget (s), |
| | epochs_budget, cost_budget (s), target, patience, |
| | and of a trial epochs, rungs, brackets; of a configuration repeats, folds |
| cluster | where, cpus, gpus: what there is; slots (trials at once), trial_cpus, trial_gpus; \
waiting (further trials for which machines are waited for) |
| trial_start | id, params, signature, configuration, repeat, confirms, bracket, refused, same_as |
| confirmation | configurations (ids, best first), seeds (of each), each (trials of a seed) |
| report | id, epoch, metrics, seconds (of this epoch, inside the loop), final |
| retry | id, kind, reason, seconds (wall): it failed; changed: settings it is tried again with |
| lost | id, reason: its process or machine is gone; not an end, the trial goes on elsewhere |
| preempted | id, reason: its machine is taken away, with notice; as lost, and nobody's fault |
| exploit | id, donor, epoch (the donor's), params: it goes on from the donor's weights with these |
| trial_end | id, state, kind, reason, seconds (wall, of this session's part); costs: those known \
of a trial that never began |
| search_end | state, reason |

`History` and `TrialHistory` say what these are; `refused` counts draws that broke a constraint. A
reader ignores events and fields it doesn't know, so that later versions may add some; what an older
reader would misunderstand makes another `FORMAT`, which it refuses.

A line is written in one system call, so that a driver that is killed leaves whole records, and at
most one torn at the end, which is cut off. It reaches the disk within a second, or when the run
ends: a loss of power may cost the reports of its last second, and the epochs are trained again.
"""

from __future__ import annotations

from raudio.records.history import (
    BudgetRecord,
    ClusterRecord,
    ConfirmationRecord,
    History,
)
from raudio.records.layout import (
    BEST,
    COMPLETED,
    DATASET_JSON,
    DONOR,
    ENDED,
    ENVIRONMENT_JSON,
    ERROR_TXT,
    EXPERIMENT_YAML,
    FAILED,
    FORMAT,
    INTERRUPTED,
    JOURNAL,
    LAST,
    LOCK,
    OWNER,
    OWNER_STALE,
    PREFLIGHT_JSON,
    PRIOR,
    PRUNED,
    RECORDS,
    RUNNING,
    SEARCH_YAML,
    SPACE_YAML,
    STOPPED,
    TRIALS,
    WAITS,
    check_format,
    check_run,
    find_run,
    no_run,
    trial_file,
    trial_folder,
    trial_id,
)
from raudio.records.lock import (
    RunLock,
    is_locked,
    owner_alive,
)
from raudio.records.reader import (
    RecordReader,
    read_history,
    read_records,
)
from raudio.records.spent import (
    Spent,
)
from raudio.records.trials import (
    Configuration,
    ReportRecord,
    TrialHistory,
)
from raudio.records.writer import (
    RecordWriter,
)

__all__ = [
    "BEST",
    "COMPLETED",
    "DATASET_JSON",
    "DONOR",
    "ENDED",
    "ENVIRONMENT_JSON",
    "ERROR_TXT",
    "EXPERIMENT_YAML",
    "FAILED",
    "FORMAT",
    "INTERRUPTED",
    "JOURNAL",
    "LAST",
    "LOCK",
    "OWNER",
    "OWNER_STALE",
    "PREFLIGHT_JSON",
    "PRIOR",
    "PRUNED",
    "RECORDS",
    "RUNNING",
    "SEARCH_YAML",
    "SPACE_YAML",
    "STOPPED",
    "TRIALS",
    "WAITS",
    "BudgetRecord",
    "ClusterRecord",
    "Configuration",
    "ConfirmationRecord",
    "History",
    "RecordReader",
    "RecordWriter",
    "ReportRecord",
    "RunLock",
    "Spent",
    "TrialHistory",
    "check_format",
    "check_run",
    "find_run",
    "is_locked",
    "no_run",
    "owner_alive",
    "read_history",
    "read_records",
    "trial_file",
    "trial_folder",
    "trial_id",
]

"""A quiet Ray session on this machine or on a cluster.

Nothing of Ray reaches the screen: its messages go to the log file that the caller names.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from raudio.cluster import alive
from raudio.cluster.alive import SessionError
from raudio.cluster.capacity import Capacity, cluster_capacity, local_capacity
from raudio.cluster.environment import address_of, runtime_env
from raudio.cluster.growth import NONE, Growth, growth
from raudio.cluster.signals import held
from raudio.cluster.token import answers, problem
from raudio.config.schema import Cluster
from raudio.core.errors import ConfigError
from raudio.data import raydata

#: glibc's default thresholds make processes that allocate and free batch-sized buffers fall, at
#: random, into a mode that faults every page anew, up to twice slower. Fixed thresholds do not.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(256 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}

#: Milliseconds that Ray waits to hear why a process is gone, when nobody has told; else 1000. It is
#: told at once of one that dies on a machine that lives, and within 20 s that a machine is gone.
DEATHS = {"RAY_timeout_ms_task_wait_for_death_info": "40000"}

#: Ray's switches that the environment alone can set; a user's own value wins.
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own progress table
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a CSV, a JSON and an event file for each trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: see search.tune
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # records.jsonl is the state; Tune's copy is not used
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",  # no report to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    **MALLOC,
    **DEATHS,
}


@contextlib.contextmanager
def session(
    settings: Cluster,
    log: Path,
    *,
    dashboard: bool = False,
    plugins: Sequence[str] = (),
    modules: Sequence[str] = (),
    last_words: Callable[[str], None] = alive.error,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Capacity]:
    """A Ray session for the length of a `with` block; ended with it when it was started by it.

    Who interrupts its start is heeded when it has started.

    Args:
        settings: `address` is "local" (starts Ray on this machine), "auto" or HOST:PORT; None as
            `environment.address_of` says.
        log: file that Ray's and Optuna's messages are appended to.
        dashboard: start it with a local cluster, on loopback. Ray Train asks it which trial drivers
            are alive, and without it never frees the workers' places of one that has crashed.
        plugins: Python files that the processes of a cluster are to find.
        modules: imported while Ray starts, which waits for other processes.
        last_words: called with the reason where Ray has died and the main thread cannot say so, as
            it waits for an answer of Ray that will not come; then the process ends with status 1.
        say: told that an interrupt was heard; and, by another thread, when a cluster's head does
            not answer, and when it does again.

    Raises:
        ConfigError: no cluster answers at the address, or it takes another token.
        SessionError: Ray on this machine did not start, or the session's died during the block.
    """
    local, silence = address_of(settings) == "local", alive.silence()
    environment = _ENVIRONMENT if local else {**_ENVIRONMENT, **alive.ENVIRONMENT}
    set_here = {name: value for name, value in environment.items() if name not in os.environ}
    os.environ.update(set_here)
    started = False
    watched: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    quiet = contextlib.ExitStack()
    try:
        with held(lambda: say("interrupted; it ends when Ray has started")):
            import ray  # whole, before another thread imports parts of it

            quiet.enter_context(_prints_in(log))  # a cluster may have something to say at once
            started = not ray.is_initialized()
            with _importing(modules):
                if started:
                    _connect(settings, log, dashboard, plugins)
                    look, looks = alive.own() if local else alive.joined(silence)
                    watched = alive.watched(look, looks, last_words, say)
        with _logs_in(log), watched:
            capacity = _reached(settings)
            apart = capacity.has_data_nodes and started
            try:
                if apart:
                    raydata.run_apart(True)
                yield capacity
            finally:
                if apart:
                    raydata.run_apart(False)
    finally:
        if started:
            ray.shutdown()
        quiet.close()
        for name in set_here:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _importing(modules: Sequence[str]) -> Iterator[None]:
    """Imports beside the block, which is not to need them: of one package, two threads at once
    find halves."""

    def all_of_them() -> None:
        for module in modules:
            import_module(module)

    thread = threading.Thread(target=all_of_them, daemon=True)
    thread.start()
    try:
        yield
    finally:  # also for a process that ends: one that is in the middle of an import crashes
        thread.join()


def _connect(settings: Cluster, log: Path, dashboard: bool, plugins: Sequence[str]) -> None:
    import ray

    address = address_of(settings)
    common = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address != "local":
        answers(address)
        try:
            # A cluster's processes have their own environment: what must be set before one starts
            # is set by Ray. (A local cluster's processes inherit ours.)
            ray.init(
                address=address, runtime_env=runtime_env({**MALLOC, **DEATHS}, plugins), **common
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"cluster.address={address}: the cluster there cannot be joined: {reason}"
            ) from error
        return
    (node,) = local_capacity(settings).nodes
    try:
        with _deaf_to_hangup():
            ray.init(
                address="local",  # never a cluster that a left-over address file points to
                num_cpus=int(node.cpus),
                _memory=node.memory,  # what was planned with, whatever happens to be free now
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                _node_ip_address="127.0.0.1",
                **common,
            )
    except ray.exceptions.AuthenticationError as error:
        raise ConfigError(f"Ray on this machine: {problem(error)}") from error
    except Exception as error:  # Ray has no class of its own for it
        with log.open("a", encoding="utf-8") as file:
            file.write(traceback.format_exc())
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SessionError(
            f"Ray did not start on this machine: {reason} (traceback in {log})"
        ) from error


@contextlib.contextmanager
def _deaf_to_hangup() -> Iterator[None]:
    """What is started in the block is never told that the terminal was closed: Ray would be gone
    before its driver had stopped. (Ray does the same for Ctrl-C.) The driver is told after it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _reached(settings: Cluster) -> Capacity:
    """What there is, and may come."""
    import ray

    if address_of(settings) == "local":
        return present_capacity(settings)
    return present_capacity(settings, growth(ray.nodes()))


def present_capacity(settings: Cluster, growth: Growth = NONE) -> Capacity:
    """What the nodes offer that are there now; inside a session.

    Args:
        settings: of the session.
        growth: that its capacity came with.
    """
    import ray
    from ray._private.state import state

    address = address_of(settings)
    if address == "auto":
        address = ray.get_runtime_context().gcs_address
    where = "this machine" if address == "local" else f"the cluster at {address}"
    return cluster_capacity(ray.nodes(), where, growth, state.get_draining_nodes())


@contextlib.contextmanager
def _prints_in(log: Path) -> Iterator[None]:
    """Sends what Ray prints to a file: what goes wrong in a cluster, on standard output, whoever
    reads that; and Python, what goes wrong in a thread of Ray's."""
    from ray._private import worker

    def write(text: str) -> None:
        handler.handle(logging.makeLogRecord({"name": "ray", "msg": text}))

    handler = _handler(log)
    printed, failed = worker.print_to_stdstream, threading.excepthook
    worker.print_to_stdstream = lambda data, ignore_prefix: write("\n".join(data["lines"]))
    threading.excepthook = lambda args: (
        write(f"{args.thread.name}: {args.exc_value!r}")
        if args.thread is not None and args.thread.name.startswith("ray_")
        else failed(args)
    )
    try:
        yield
    finally:
        threading.excepthook = failed
        worker.print_to_stdstream = printed
        handler.close()


@contextlib.contextmanager
def _logs_in(log: Path) -> Iterator[None]:
    """Sends what Ray and Optuna log, and Python's warnings, to a file instead of the screen."""
    import_module("ray")  # first: it then sets its logger up
    handler = _handler(log)
    loggers = [logging.getLogger(name) for name in ("ray", "optuna", "py.warnings")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()


def _handler(log: Path) -> logging.Handler:
    handler = logging.FileHandler(log, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    return handler

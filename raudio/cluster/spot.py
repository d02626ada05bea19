"""Watching for the notice that a spot machine is taken away, and telling Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from raudio.cluster.notices import PROVIDERS, NoAnswerError, Notice, Provider, Service, detect
from raudio.core.units import Seconds

#: The longest pause between two questions to a service that does not answer: notices are short.
_LONGEST_PAUSE: Seconds = 15.0
#: The pause after Ray could not be told, and after it was.
_RETRY: Seconds = 2.0
_AGAIN: Seconds = 15.0


def watch(
    name: str,
    service: Service,
    drain: Callable[[Notice], str | None],
    log: Callable[[str], None],
    *,
    interval: Seconds,
    once: bool = False,
    sleep: Callable[[Seconds], None] = time.sleep,
) -> Notice | None:
    """Asks the provider over and over, and has the machine drained when there is a notice.

    A service that is away, slow or says what it should not is asked again, less often; that is said
    once, and once more when it is back. After a notice it goes on when its deadline is over: some
    machines are not taken away after all.

    Args:
        name: of the provider; "auto": whose service it is.
        drain: tells Ray; why it could not, after which it is tried again until the deadline.
        log: gets a line for everything that happens.
        interval: from one question to the next.
        once: ask one time and return; without it the function does not return.
        sleep: waits.

    Returns:
        With `once`, the notice that there is.

    Raises:
        NoAnswerError: with `once`, it does not answer.
    """
    provider: Provider | None = None
    failures = 0
    while True:
        began = time.monotonic()
        try:
            if provider is None:
                provider, kind = _provider(name, service, log)
                log(f"watching for {kind}'s notice at {service.endpoint}")
            notice = provider.look(0 if once else interval)
        except NoAnswerError as error:
            if once:
                raise
            if not failures:
                log(f"{service.endpoint} does not answer ({error}); asking on")
            failures += 1
            sleep(min(_LONGEST_PAUSE, interval * 2 ** min(failures - 1, 10)))
            continue
        if failures:
            log(f"{service.endpoint} answers again")
            failures = 0
        if notice is not None:
            _tell(notice, drain, log, sleep, once)
        if once:
            return notice
        sleep(max(0.0, interval - (time.monotonic() - began)))


def _provider(name: str, service: Service, log: Callable[[str], None]) -> tuple[Provider, str]:
    kind = detect(service) if name == "auto" else name
    return PROVIDERS[kind](service, log), kind


def _tell(
    notice: Notice,
    drain: Callable[[Notice], str | None],
    log: Callable[[str], None],
    sleep: Callable[[Seconds], None],
    once: bool,
) -> None:
    """Has the machine drained until its time is over (`once`: until that has worked).

    A node without work ends when it is drained, and Ray's autoscaler may start it again for the
    rest of the machine's time: that one is drained too.
    """
    when = datetime.fromtimestamp(notice.deadline, UTC)
    left = notice.deadline - time.time()
    log(f"{notice.reason} at {when:%Y-%m-%dT%H:%M:%SZ}, in {left:.0f} s: draining this machine")
    said, drained = None, False
    while True:
        why = drain(notice)
        drained = drained or why is None
        if not drained and why != said:
            log(str(why))
            said = why
        left = notice.deadline - time.time()
        if (once and drained) or left <= 0:
            break
        sleep(min(left, _AGAIN if drained else _RETRY))
    if not drained:
        log("Ray could not be told before the deadline")

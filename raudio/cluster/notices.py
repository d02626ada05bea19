"""The notice that a cloud gives before it takes a machine away: how each of them is asked.

Each tells its machines over HTTP at a link-local address. What differs is how one asks, and what a
notice looks like.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

from raudio.core.errors import ConfigError, RaudioError
from raudio.core.units import Seconds

#: Where the metadata service of all three is, unless told otherwise.
ENDPOINT = "http://169.254.169.254"

#: How long GCP lets a machine live after it has said that it is preempted.
_GCP_GRACE: Seconds = 30.0
#: How long before a maintenance GCP says so at the latest.
_GCP_MAINTENANCE: Seconds = 60.0
#: Azure's events after which the processes of a machine are gone. ("Freeze" only pauses them.)
_AZURE_ENDS = ("Preempt", "Terminate", "Redeploy", "Reboot")

#: The longest answer that is read: the true ones have less than a thousandth of it.
_LONGEST_ANSWER = 2**20
#: How long a service may take for its answer, besides what it was told to wait.
_PATIENCE: Seconds = 10.0


class NoAnswerError(RaudioError):
    """The metadata service did not answer, or not as this provider's does."""


@dataclass(frozen=True)
class Notice:
    """A machine will be taken away.

    Attributes:
        deadline: when, in seconds since 1970.
        reason: what the provider said, in a few words.
    """

    deadline: float
    reason: str


class Provider(Protocol):
    """How one cloud is asked."""

    def look(self, wait: Seconds) -> Notice | None:
        """The notice that there is now.

        Args:
            wait: the provider may take so long for its answer, until there is news.

        Raises:
            NoAnswerError: that cannot be found out.
        """
        ...


@dataclass(frozen=True)
class Answer:
    """What a metadata service says; `headers` by their names in small letters."""

    status: int
    headers: Mapping[str, str]
    text: str


class Service:
    """A metadata service. It is asked directly: no proxy sees its tokens, no redirect is followed.

    Args:
        endpoint: http://HOST or http://HOST:PORT.

    Raises:
        ConfigError: the endpoint is of another form.
    """

    def __init__(self, endpoint: str = ENDPOINT) -> None:
        try:
            parts = urlsplit(endpoint)
            self._host, self._port = parts.hostname, parts.port
        except ValueError:
            self._host = None
        if self._host is None or parts.scheme != "http" or parts.path not in ("", "/"):
            raise ConfigError(f"--endpoint {endpoint!r} must be http://HOST or http://HOST:PORT")
        self.endpoint = endpoint.rstrip("/")

    def ask(
        self, path: str, headers: Mapping[str, str], *, method: str = "GET", wait: Seconds = 0
    ) -> Answer:
        """What it says to one question; `wait` is what it was told to take for it at most.

        Raises:
            NoAnswerError: it says nothing.
        """
        connection = http.client.HTTPConnection(
            self._host or "", self._port, timeout=wait + _PATIENCE
        )
        try:
            connection.request(method, path, headers=dict(headers))
            reply = connection.getresponse()
            text = reply.read(_LONGEST_ANSWER).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswerError(str(error) or type(error).__name__) from error
        finally:
            connection.close()
        return Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, text)

    def need(self, path: str, headers: Mapping[str, str], **options: Any) -> Answer:
        """As `ask`; NoAnswerError too when the status is not 200."""
        answer = self.ask(path, headers, **options)
        if answer.status != 200:
            raise NoAnswerError(f"HTTP status {answer.status} for {path.partition('?')[0]}")
        return answer


class Aws:
    """The notice of a spot instance (two minutes ahead), by IMDSv2."""

    _LIFE = 6 * 3600  # seconds that a token is good for: the longest there is

    def __init__(self, service: Service, log: Callable[[str], None]) -> None:
        self._service, self._log = service, log
        self._token: str | None = None
        self._recommended = False

    @classmethod
    def answers(cls, service: Service) -> bool:
        """Whether it is AWS that answers."""
        try:
            cls(service, lambda _: None)._renewed()
        except NoAnswerError:
            return False
        return True

    def look(self, wait: Seconds) -> Notice | None:
        action = self._ask("spot/instance-action")
        if action is None:
            self._look_at_recommendation()
            return None
        with _as_answered("spot/instance-action"):
            said = json.loads(action)
            when = datetime.fromisoformat(said["time"].replace("Z", "+00:00"))
            return Notice(_utc(when).timestamp(), f"AWS: spot instance, {said['action']}")

    def _look_at_recommendation(self) -> None:
        """A rebalance recommendation has no deadline, and most such machines live on for hours: it
        is said, and nothing is drained for it."""
        if not self._recommended and self._ask("events/recommendations/rebalance") is not None:
            self._recommended = True
            self._log("AWS: this spot instance has a higher risk of being taken away (no date yet)")

    def _ask(self, path: str) -> str | None:
        """The text below meta-data, None where there is none."""
        for token in (self._token or self._renewed(), None):
            headers = {"X-aws-ec2-metadata-token": token or self._renewed()}
            answer = self._service.ask(f"/latest/meta-data/{path}", headers)
            if answer.status != 401:  # which is an old token's
                break
        if answer.status not in (200, 404):
            raise NoAnswerError(f"HTTP status {answer.status} for {path}")
        return answer.text if answer.status == 200 else None

    def _renewed(self) -> str:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(self._LIFE)}
        self._token = self._service.need("/latest/api/token", headers, method="PUT").text.strip()
        if not self._token or len(self._token.split()) != 1 or not self._token.isascii():
            raise NoAnswerError("no token in the answer to /latest/api/token")
        return self._token


class Gcp:
    """The notice of a spot or preemptible machine (30 s ahead), and of a maintenance that ends it.

    The question for the first waits at the service: its answer comes when there is one.
    """

    _HEADERS = {"Metadata-Flavor": "Google"}  # noqa: RUF012

    def __init__(self, service: Service, log: Callable[[str], None]) -> None:
        self._service = service
        self._etag: str | None = None

    @classmethod
    def answers(cls, service: Service) -> bool:
        """Whether it is GCP that answers."""
        try:
            answer = service.ask("/computeMetadata/v1/instance/preempted", cls._HEADERS)
        except NoAnswerError:
            return False
        return answer.headers.get("metadata-flavor") == "Google"

    def look(self, wait: Seconds) -> Notice | None:
        if self._ask("preempted", ("TRUE", "FALSE"), wait) == "TRUE":
            return Notice(time.time() + _GCP_GRACE, "GCP: preempted")
        event = self._ask("maintenance-event", ("NONE", "MIGRATE_ON_HOST_MAINTENANCE", _GCP_ENDS))
        if event == _GCP_ENDS:
            return Notice(time.time() + _GCP_MAINTENANCE, "GCP: ended by a maintenance of its host")
        return None

    def _ask(self, name: str, known: tuple[str, ...], wait: Seconds = 0) -> str:
        path, whole = f"/computeMetadata/v1/instance/{name}", max(1, round(wait))
        waiting = wait > 0 and self._etag is not None
        if waiting:  # from the state that was seen last: nothing is missed between two questions
            path += f"?wait_for_change=true&timeout_sec={whole}&last_etag={self._etag}"
        answer = self._service.need(path, self._HEADERS, wait=whole if waiting else 0)
        text = answer.text.strip()
        if text not in known:
            raise NoAnswerError(f"{text[:40]!r} for instance/{name}")
        if wait > 0:
            etag = answer.headers.get("etag", "")
            self._etag = etag if etag.isalnum() else None
        return text


_GCP_ENDS = "TERMINATE_ON_HOST_MAINTENANCE"


class Azure:
    """Azure's scheduled events: a spot machine's notice comes at least 30 s ahead.

    The machines of a scale set are all told of each other's events, so the name decides.
    """

    _HEADERS = {"Metadata": "true"}  # noqa: RUF012
    _NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
    _EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"

    def __init__(self, service: Service, log: Callable[[str], None]) -> None:
        self._service = service
        self._name: str | None = None

    @classmethod
    def answers(cls, service: Service) -> bool:
        """Whether it is Azure that answers."""
        try:
            cls(service, lambda _: None)._own_name()
        except NoAnswerError:
            return False
        return True

    def look(self, wait: Seconds) -> Notice | None:
        if self._name is None:
            self._name = self._own_name()
        text = self._service.need(self._EVENTS, self._HEADERS).text
        with _as_answered("scheduledevents"):
            notices = [
                Notice(_not_before(event), f"Azure: {event['EventType']}")
                for event in json.loads(text)["Events"]
                if event["EventType"] in _AZURE_ENDS and self._name in event["Resources"]
            ]
        return min(notices, key=lambda notice: notice.deadline, default=None)

    def _own_name(self) -> str:
        name = self._service.need(self._NAME, self._HEADERS).text.strip()
        if not re.fullmatch(r"[\w.-]+", name):
            raise NoAnswerError("no machine's name in the answer")
        return name


def _not_before(event: Mapping[str, Any]) -> float:
    """When an event begins; one that has begun has no date."""
    when = event.get("NotBefore")
    return _utc(parsedate_to_datetime(when)).timestamp() if when else time.time()


def _utc(when: datetime) -> datetime:
    return when if when.tzinfo else when.replace(tzinfo=UTC)


@contextlib.contextmanager
def _as_answered(what: str) -> Iterator[None]:
    """Text that is not of the provider's form is no answer."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NoAnswerError(f"an answer of another form for {what}") from error


PROVIDERS: dict[str, type[Aws] | type[Gcp] | type[Azure]] = {
    "gcp": Gcp,
    "azure": Azure,
    "aws": Aws,
}


def detect(service: Service) -> str:
    """The name of the provider whose metadata service this is.

    Raises:
        NoAnswerError: none of them.
    """
    for name, provider in PROVIDERS.items():
        if provider.answers(service):
            return name
    raise NoAnswerError("no metadata service of AWS, GCP or Azure there")

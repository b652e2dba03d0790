"""Sends reports to the operator over HTTPS, with the current token and a persistent connection."""

import http.client
import json
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from trainwright.api.worker import ReportsEndpoint, WorkerReport
from trainwright_worker.console import say

SEND_SECONDS: Final = 5.0
MAX_PAUSE_SECONDS: Final = 30.0
_REFUSED: Final = frozenset({401, 403, 409})


class Client:
    """A connection to the operator, kept open between reports unless the operator closes it.

    Attributes:
        pause: Seconds between reports that the operator has requested; 0 if it has not.
    """

    def __init__(self, endpoint: ReportsEndpoint, sender: str) -> None:
        """Prepare; connects with the first report.

        Args:
            endpoint: The endpoint of the operator.
            sender: Name of the sender in log lines about failures.
        """
        self.pause = 0.0
        self._endpoint = endpoint
        self._sender = sender
        self._url = urlsplit(endpoint.url)
        self._connection: http.client.HTTPConnection | None = None
        self._logged_reason: str | None = None

    def post(self, report: WorkerReport) -> bool:
        """Send a report, and return whether it was accepted. A repeated reason for failure is logged only once."""
        body, kept = json.dumps(report.to_wire()).encode(), self._connection is not None
        try:
            try:
                status = self._post(body)
            except ConnectionError:  # Includes http.client.RemoteDisconnected.
                self._drop()
                if not kept:
                    raise
                status = self._post(body)  # Servers and proxies close idle connections.
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._drop()
            self.pause = 0.0
            return self._log_failure(f"{type(error).__name__}: {error}")
        if status < http.HTTPStatus.MULTIPLE_CHOICES:
            self._logged_reason = None
            return True
        meaning = "the job is deleted or has restarted" if status in _REFUSED else "refused"
        return self._log_failure(f"HTTP {status}, {meaning}")

    def _post(self, body: bytes) -> int:
        if self._connection is None:
            self._connection = self._connect()
        # The token rotates, and expires after about ten minutes, so read it for every report.
        token = Path(self._endpoint.token_file).read_text(encoding="utf-8").strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        path = self._url.path + (f"?{self._url.query}" if self._url.query else "")
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        response.read()
        asked = response.headers.get("Retry-After", "")
        self.pause = min(MAX_PAUSE_SECONDS, float(asked)) if asked.isdecimal() else 0.0
        return response.status

    def _connect(self) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, self._url.port, timeout=SEND_SECONDS)
        context = ssl.create_default_context(cafile=self._endpoint.ca_file)
        return http.client.HTTPSConnection(host, self._url.port, timeout=SEND_SECONDS, context=context)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _log_failure(self, reason: str) -> bool:
        if reason != self._logged_reason:
            say(self._sender, f"report not delivered ({reason}); training continues, and the report will be retried")
            self._logged_reason = reason
        return False

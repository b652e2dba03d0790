"""What a worker makes of the operator's answers to its reports."""

import http.server
import threading

import pytest

from trainwright.api.worker import ReportsEndpoint, WorkerPhase, WorkerReport
from trainwright_worker.reporting.client import MAX_PAUSE_SECONDS, Client
from trainwright_worker.reporting.pulse import Pulse
from trainwright_worker.reporting.report import ASKED_AGAIN, MAX_BACKOFF_SECONDS, Reporter, first_report


class Handler(http.server.BaseHTTPRequestHandler):
    """Takes every report, asking for the pause that the server is told to ask for."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.reports += 1
        self.send_response(self.server.refusals.pop(0) if self.server.refusals else 204)
        for name, value in self.server.answer.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = self.server.leaves or self.close_connection  # without a word, as after a long silence

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def server():
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    running.answer, running.reports, running.refusals = {}, 0, []
    running.leaves = False
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def endpoint(server, tmp_path):
    (tmp_path / "token").write_text("t")
    url = f"http://127.0.0.1:{server.server_port}/reports"
    return ReportsEndpoint(url=url, ca_file="", token_file=str(tmp_path / "token"), interval_seconds=0.01)


REPORT = WorkerReport(uid="u", attempt=1, launch="a", sequence=1, phase=WorkerPhase.TRAINING)


@pytest.mark.parametrize(
    ("asked", "pause"), [(None, 0.0), ("7", 7.0), ("86400", MAX_PAUSE_SECONDS), ("-1", 0.0), ("Wed, 21 Oct", 0.0)]
)
def test_the_operator_asks_for_a_pause(server, endpoint, asked, pause):
    server.answer = {} if asked is None else {"Retry-After": asked}
    client = Client(endpoint, "rank 0")
    assert client.post(REPORT)
    assert client.pause == pause


def test_a_connection_that_the_operator_closes_is_opened_again(server, endpoint):
    server.answer = {"Connection": "close"}
    client = Client(endpoint, "rank 0")
    assert [client.post(REPORT) for _ in range(3)] == [True, True, True]
    assert server.reports == 3


def test_a_connection_that_was_closed_meanwhile_loses_no_report(server, endpoint, capsys):
    server.leaves = True
    client = Client(endpoint, "rank 0")
    assert [client.post(REPORT) for _ in range(3)] == [True, True, True]
    assert server.reports == 3
    assert capsys.readouterr().out == ""


def test_a_replica_that_does_not_work_says_when_to_try_again_but_not_for_ever(server, endpoint):
    server.answer = {"Retry-After": "1", "Connection": "close"}
    reporter = Reporter(endpoint.model_copy(update={"interval_seconds": 4}), first_report("u", 1, "l"), Pulse())
    reporter.close()
    client = reporter._client
    server.refusals = [503]
    assert not client.post(REPORT)
    assert [reporter._pause(failures) for failures in (1, ASKED_AGAIN, ASKED_AGAIN + 1)] == [1, 1, MAX_BACKOFF_SECONDS]


def test_a_pause_holds_back_what_is_no_news_and_nothing_else(server, endpoint):
    server.answer = {"Retry-After": "30"}
    reporter = Reporter(endpoint, first_report("u", 1, "l"), Pulse())
    reporter.update(phase=WorkerPhase.TRAINING)
    last = reporter.close()
    assert last.phase == WorkerPhase.TRAINING
    assert 2 <= server.reports <= 4

"""Reports arrive over TLS with the newest token, survive outages, and never slow training."""

import http.server
import json
import ssl
import subprocess
import threading

import pytest

from trainwright.api.worker import WorkerPhase, WorkerReport

from .conftest import free_port, wait_for

pytestmark = pytest.mark.local

SPEC = {
    "model": {"name": "mlp", "args": {"hidden": [32]}},
    "dataset": {"builtin": {"name": "digits"}},
    "training": {"epochs": 60, "globalBatchSize": 32},
    "checkpoint": {"everySteps": 100, "keep": 2},
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "crt")]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return folder


class Endpoint:
    """An HTTPS endpoint that can be told to refuse, and remembers what it got."""

    def __init__(self, certificate, port):
        self.reports, self.tokens, self.status = [], [], 204
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.tokens.append((endpoint.status, self.headers["Authorization"]))
                if endpoint.status < 300:
                    endpoint.reports.append(WorkerReport.model_validate_json(body))
                self.send_response(endpoint.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "crt", certificate / "key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def settings(folder, certificate, port):
    return {
        "url": f"https://localhost:{port}/v1/report?job=x",
        "caFile": str(certificate / "crt"),
        "tokenFile": str(folder),
        "intervalSeconds": 0.05,
    }


def test_reports_tell_the_whole_story_through_refusals(make_job, certificate, tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    endpoint = Endpoint(certificate, free_port())
    try:
        job = make_job(SPEC, reports=settings(token, certificate, endpoint.server.server_port))
        worker = job.start()
        wait_for(lambda: endpoint.reports, "the first report")
        assert endpoint.reports[0].phase == WorkerPhase.PREPARING
        assert endpoint.reports[0].total_steps is None
        wait_for(lambda: endpoint.reports[-1].step > 50, "progress")
        endpoint.status = 503
        token.write_text("second")
        wait_for(lambda: endpoint.tokens[-1] == (503, "Bearer second"), "the rotated token")
        endpoint.status = 204
        assert worker.wait() == 0, worker.log
    finally:
        endpoint.close()
    assert worker.log.count("HTTP 503") == 1
    assert endpoint.tokens[0][1] == "Bearer first"
    last = endpoint.reports[-1]
    assert last.phase == WorkerPhase.FINISHED
    assert last.step == last.total_steps == 45 * 60
    assert last.evaluation.split == "test"
    assert len(last.checkpoints) == 2
    assert last.results.weights
    sequences = [report.sequence for report in endpoint.reports]
    assert sequences == sorted(set(sequences))
    assert {report.launch for report in endpoint.reports} == {last.launch}
    assert any(report.loss and report.samples_per_second and report.grad_norm for report in endpoint.reports)


def test_an_endpoint_that_is_gone_costs_nothing_but_the_reports(make_job, certificate, tmp_path):
    token = tmp_path / "token"
    token.write_text("t")
    job = make_job(SPEC, reports=settings(token, certificate, free_port()))
    worker = job.start()
    assert worker.wait() == 0, worker.log
    assert worker.log.count("report not delivered") == 1
    assert worker.termination.report.phase == WorkerPhase.FINISHED
    assert json.loads(worker._ending.read_text())["report"]["step"] == 2700


def test_metrics_are_served_per_rank_and_a_taken_port_is_no_failure(make_job):
    from urllib.request import urlopen  # noqa: PLC0415

    port = free_port()
    first = make_job(SPEC, "first", metricsPort=port)
    second = make_job(SPEC, "second", metricsPort=port)
    worker = first.start()
    first.wait_for_step(50)
    text = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["trainwright_worker_step"]) >= 50
    assert float(values["trainwright_worker_step_seconds_count"]) > 0
    other = second.start()
    second.wait_for_step(1)
    assert f"cannot serve metrics on port {port}" in other.log
    other.kill()
    assert worker.wait() == 0

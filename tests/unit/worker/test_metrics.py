"""Where a rank can be scraped."""

import http.client
import socket

import pytest

from trainwright_worker.reporting.metrics import Metrics


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_rank_is_scraped_over_ipv4_and_over_ipv6(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, 0), family=family) as probe:
            port = probe.getsockname()[1]
    except OSError as error:
        pytest.skip(f"this machine has no {host}: {error.strerror}")
    Metrics(port, rank=0).observe_checkpoint(7, 0.0)
    connection = http.client.HTTPConnection(host, port, timeout=10)
    connection.request("GET", "/metrics")
    assert b"trainwright_worker_checkpoint_step 7.0" in connection.getresponse().read()

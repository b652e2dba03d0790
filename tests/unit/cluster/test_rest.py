"""Requests to an API server: errors become the port's, and credentials that have rotated are read anew."""

import pytest
import yaml
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from trainwright.cluster.port import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    NotFoundError,
    RejectedError,
)
from trainwright.cluster.rest import ApiServer, TooLargeError


class Server:
    """Answers every request that brings the right token."""

    def __init__(self):
        self.valid = "first"
        self.tokens = []
        self.answer = (200, {"kind": "Thing"})

    async def handle(self, request):
        self.tokens.append(request.headers.get("Authorization"))
        if request.headers.get("Authorization") != f"Bearer {self.valid}":
            return web.json_response({"reason": "Unauthorized", "message": "Unauthorized"}, status=401)
        status, body = self.answer
        return web.json_response(body, status=status)


@pytest.fixture
async def server():
    return Server()


@pytest.fixture
async def url(server):
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
def kubeconfig(url, tmp_path, monkeypatch):
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))

    def write(token):
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        path.write_text(yaml.safe_dump(config))

    return write


@pytest.fixture
async def connection(kubeconfig):
    kubeconfig("first")
    connected = await ApiServer.connect()
    yield connected
    await connected.close()


async def test_a_rotated_token_is_read_anew_and_the_request_repeated(server, kubeconfig, connection):
    assert await connection.request("GET", "/a", "things") == {"kind": "Thing"}
    server.valid = "second"
    kubeconfig("second")
    assert await connection.request("POST", "/a", "things", {"kind": "Thing"}) == {"kind": "Thing"}
    assert await connection.request("GET", "/a", "things") == {"kind": "Thing"}
    assert server.tokens == ["Bearer first", "Bearer first", "Bearer second", "Bearer second"]


async def test_a_token_that_is_wrong_and_stays_so_is_an_error_at_once(server, connection):
    server.valid = "second"
    with pytest.raises(ClusterError, match="401"):
        await connection.request("GET", "/a", "things")
    assert len(server.tokens) == 1


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [
        (404, "NotFound", NotFoundError),
        (409, "AlreadyExists", AlreadyExistsError),
        (409, "Conflict", ConflictError),
        (403, "Forbidden", RejectedError),
        (422, "Invalid", RejectedError),
        (429, "TooManyRequests", ClusterError),
        (500, "InternalError", ClusterError),
    ],
)
async def test_errors_become_those_of_the_port(server, connection, status, reason, error):
    server.answer = (status, {"kind": "Status", "reason": reason, "message": "no such luck"})
    with pytest.raises(error, match="no such luck") as caught:
        await connection.request("GET", "/a", "things")
    assert type(caught.value) is error


async def test_an_answer_is_read_up_to_a_size_only(server, connection):
    server.answer = (200, {"kind": "Thing", "text": "x" * 1000})
    with pytest.raises(TooLargeError, match="larger than 1,000 bytes"):
        await connection.request("GET", "/a", "things", largest=1000)
    assert (await connection.request("GET", "/a", "things", largest=1100))["kind"] == "Thing"


async def test_every_request_is_counted(server, kubeconfig):
    kubeconfig("first")
    seen = []
    connection = await ApiServer.connect(count=lambda *request: seen.append(request))
    await connection.request("GET", "/a", "things")
    await connection.close()
    assert seen == [("GET", "things", "200")]


async def test_a_server_that_is_not_there_is_an_error_of_the_port():
    connection = ApiServer(Configuration(host="http://127.0.0.1:1"))
    with pytest.raises(ClusterError, match="no answer"):
        await connection.request("GET", "/a", "things")
    await connection.close()


@pytest.mark.parametrize("text", ["current-context: gone", "contexts: [", "{}"])
async def test_a_kubeconfig_that_cannot_be_used_says_so(tmp_path, monkeypatch, text):
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ClusterError, match="no cluster to connect to"):
        await ApiServer.connect()


async def test_without_any_credentials_there_is_no_cluster(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ClusterError, match="no cluster to connect to"):
        await ApiServer.connect()


async def test_an_admission_webhook_that_does_not_answer_refuses(server, connection):
    message = 'Internal error occurred: failed calling webhook "mpod.kb.io": connection refused'
    server.answer = (500, {"kind": "Status", "reason": "InternalError", "message": message})
    with pytest.raises(RejectedError, match=r"mpod\.kb\.io"):
        await connection.request("POST", "/a", "things")

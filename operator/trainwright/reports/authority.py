"""Stores the CA of the reports endpoint in a Secret in the operator's namespace. It is created once and never replaced."""

import base64

from trainwright.api.names import MANAGED_BY
from trainwright.cluster.kubernetes import collection
from trainwright.cluster.port import AlreadyExistsError, ClusterError, Manifest, NotFoundError
from trainwright.cluster.rest import ApiServer
from trainwright.reports.certificates import KeyPair, create_authority, issue

_CERTIFICATE = "tls.crt"
_KEY = "tls.key"


async def ensure_authority(server: ApiServer, namespace: str, name: str) -> KeyPair:
    """Return the CA kept in the Secret, creating it first if there is none. Competing replicas end up with the same one.

    Raises:
        ClusterError: The Secret can be neither read nor made, or does not hold a CA.
    """
    try:
        return await _read(server, namespace, name)
    except NotFoundError:
        authority = create_authority()
    try:
        await server.request(
            "POST", collection("v1", "secrets", namespace), "secrets", _secret(authority, namespace, name)
        )
    except AlreadyExistsError:
        return await _read(server, namespace, name)
    return authority


async def _read(server: ApiServer, namespace: str, name: str) -> KeyPair:
    secret = await server.request("GET", f"{collection('v1', 'secrets', namespace)}/{name}", "secrets")
    data = secret.get("data") or {}
    try:
        pair = KeyPair(*(base64.b64decode(data[name], validate=True) for name in (_CERTIFICATE, _KEY)))
        issue(pair, [name])  # A test: a pair that cannot sign is not a CA.
    except (KeyError, ValueError, TypeError) as error:
        raise ClusterError(
            f"Secret {namespace}/{name} does not hold {_CERTIFICATE} and {_KEY}; delete the Secret, and the operator creates a new one"
        ) from error
    return pair


def _secret(authority: KeyPair, namespace: str, name: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": MANAGED_BY}},
        "data": {
            _CERTIFICATE: base64.b64encode(authority.certificate).decode(),
            _KEY: base64.b64encode(authority.key).decode(),
        },
    }

"""Keeps the CA of the reports endpoint in a Secret in the operator's namespace: creates it, and replaces it before its end.

All replicas do so, whether they lead or not. Each reads the Secret regularly and takes over the CA that it finds there. A CA that
is missing or due is replaced by a new one, which the former one signs, so that workers that trust the former one can report. A
write is based on the version that was read: of replicas that act at the same time one succeeds, and the others read again.
"""

import base64
from datetime import UTC, datetime

import structlog

from trainwright.api.names import MANAGED_BY
from trainwright.cluster.kubernetes import collection
from trainwright.cluster.port import AlreadyExistsError, ClusterError, ConflictError, Manifest, NotFoundError
from trainwright.cluster.rest import ApiServer
from trainwright.reports.certificates import KeyPair, create_authority, is_due, linked

log = structlog.get_logger(__name__)

_CERTIFICATE = "tls.crt"
_KEY = "tls.key"
_LINKS = "links.crt"


class AuthoritySecret:
    """The Secret that keeps the CA.

    Args:
        server: The API server.
        namespace: The operator's namespace.
        name: Name of the Secret.
    """

    def __init__(self, server: ApiServer, namespace: str, name: str) -> None:
        self._server = server
        self._collection = collection("v1", "secrets", namespace)
        self._namespace = namespace
        self._name = name
        self._known: KeyPair | None = None

    async def current(self) -> KeyPair:
        """Return the CA, after creating or replacing it if that is due.

        Raises:
            ClusterError: The Secret can be neither read nor written, or does not hold a CA.
        """
        try:
            self._known = await self._ensure()
        except (AlreadyExistsError, ConflictError):  # another replica was first
            self._known = await self._ensure()
        return self._known

    async def _ensure(self) -> KeyPair:
        secret = await self._read()
        stored = self._parse(secret) if secret is not None else None
        authority = stored if stored is not None and not is_due(stored, datetime.now(UTC)) else create_authority()
        # The one known is not the stored one if somebody has deleted or replaced the Secret.
        for former in (stored, self._known):
            authority = linked(authority, former) if former is not None else authority
        if authority != stored:
            await self._write(secret, authority)
            log.info("the reports CA was created or renewed", secret=f"{self._namespace}/{self._name}")
        return authority

    async def _read(self) -> Manifest | None:
        try:
            return await self._server.request("GET", f"{self._collection}/{self._name}", "secrets")
        except NotFoundError:
            return None

    def _parse(self, secret: Manifest) -> KeyPair:
        data = secret.get("data") or {}
        try:
            values = (data[_CERTIFICATE], data[_KEY], data.get(_LINKS, ""))
            pair = KeyPair(*(base64.b64decode(value, validate=True) for value in values))
            linked(pair, pair)  # A test: this raises for anything but a CA with its key and its links.
        except (KeyError, ValueError, TypeError) as error:
            raise ClusterError(
                f"Secret {self._namespace}/{self._name} does not hold a CA ({_CERTIFICATE}, {_KEY}); "
                "delete the Secret, and the operator creates a new one"
            ) from error
        return pair

    async def _write(self, read: Manifest | None, authority: KeyPair) -> None:
        values = {_CERTIFICATE: authority.certificate, _KEY: authority.key, _LINKS: authority.links}
        data = {key: base64.b64encode(value).decode() for key, value in values.items() if value}
        if read is None:
            await self._server.request("POST", self._collection, "secrets", self._new(data))
        else:
            await self._server.request("PUT", f"{self._collection}/{self._name}", "secrets", {**read, "data": data})

    def _new(self, data: Manifest) -> Manifest:
        labels = {"app.kubernetes.io/managed-by": MANAGED_BY}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": self._name, "namespace": self._namespace, "labels": labels},
            "data": data,
        }

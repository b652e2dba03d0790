"""Objects in memory with the bookkeeping of an API server: UIDs, versions, generations, owners. No I/O."""

import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from trainwright.api.status import rfc3339
from trainwright.cluster.port import AlreadyExistsError, ConflictError, Manifest, NotFoundError

Identity = tuple[str, str, str]


def now_text() -> str:
    """Return the time as Kubernetes writes it: RFC 3339 in UTC with whole seconds."""
    return rfc3339(datetime.now(UTC))


def identity(manifest: Manifest) -> Identity:
    """Return what no two objects share: kind, namespace and name."""
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", "default"), metadata["name"]


class Objects:
    """All objects of the local cluster. Objects are copied in and out, so that callers cannot modify them in place.

    Attributes:
        version: The resource version of the newest change.
    """

    def __init__(self) -> None:
        self._objects: dict[Identity, Manifest] = {}
        self.version = 0

    def get(self, key: Identity) -> Manifest:
        """Return an object.

        Raises:
            NotFoundError: There is none of that identity.
        """
        if key not in self._objects:
            kind, namespace, name = key
            raise NotFoundError(f'{kind} "{name}" not found in namespace "{namespace}"')
        found: Manifest = _copy(self._objects[key])
        return found

    def select(self, kind: str, labels: Mapping[str, str | None], namespace: str | None = None) -> list[Manifest]:
        """Return the objects of a kind that carry these labels; None stands for any value."""
        return [
            _copy(manifest)
            for (a_kind, a_namespace, _), manifest in self._objects.items()
            if a_kind == kind
            and namespace in (None, a_namespace)
            and _carries(manifest["metadata"].get("labels") or {}, labels)
        ]

    def owned_by(self, uid: str) -> Iterator[Manifest]:
        """Yield the objects that name an owner of this UID."""
        for manifest in list(self._objects.values()):
            owners = manifest["metadata"].get("ownerReferences") or []
            if any(owner["uid"] == uid for owner in owners):
                yield _copy(manifest)

    def add(self, manifest: Manifest, *, restored: bool = False) -> Manifest:
        """Store a new object and return it as stored.

        Args:
            manifest: The object.
            restored: Whether it comes from an earlier life and keeps the UID, age and generation of then.

        Raises:
            AlreadyExistsError: One of that identity exists.
        """
        stored = _copy(manifest)
        metadata = stored["metadata"]
        metadata.setdefault("namespace", "default")
        if "name" not in metadata and "generateName" in metadata:
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:8]
        key = identity(stored)
        if key in self._objects:
            raise AlreadyExistsError(f'{key[0]} "{key[2]}" already exists')
        born = {"uid": str(uuid.uuid4()), "creationTimestamp": now_text(), "generation": 1}
        stored["metadata"] = {**metadata, **born, **(_past(metadata) if restored else {})}
        return self._store(stored)

    def replace(self, manifest: Manifest) -> Manifest:
        """Store a newer version of an object and return it; an unchanged one keeps its version.

        Raises:
            NotFoundError: The object is gone.
            ConflictError: It has changed since it was read.
        """
        present = self.get(identity(manifest))
        if present["metadata"]["uid"] != manifest["metadata"]["uid"]:
            raise NotFoundError(f"{manifest['metadata']['name']} was replaced by another of its name")
        if present["metadata"]["resourceVersion"] != manifest["metadata"]["resourceVersion"]:
            raise ConflictError(f"{manifest['metadata']['name']} has changed since it was read")
        if present == manifest:
            return present
        changed = _copy(manifest)
        if present.get("spec") != changed.get("spec"):
            changed["metadata"]["generation"] = present["metadata"]["generation"] + 1
        return self._store(changed)

    def remove(self, manifest: Manifest) -> None:
        """Forget an object; one that is gone already stays gone."""
        self._objects.pop(identity(manifest), None)

    def _store(self, manifest: Manifest) -> Manifest:
        self.version += 1
        manifest["metadata"]["resourceVersion"] = str(self.version)
        self._objects[identity(manifest)] = manifest
        return self.get(identity(manifest))


def _copy(value: Any) -> Any:
    """Copy JSON data; what copies anything else takes five times as long."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _carries(labels: Mapping[str, str], wanted: Mapping[str, str | None]) -> bool:
    return all(key in labels and value in (None, labels[key]) for key, value in wanted.items())


def _past(metadata: Manifest) -> Manifest:
    return {key: metadata[key] for key in ("uid", "creationTimestamp", "generation") if key in metadata}

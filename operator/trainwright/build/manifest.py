"""The type of Kubernetes objects outside `api`: plain dicts with Kubernetes' own field names."""

from typing import Any

Manifest = dict[str, Any]

"""The one type of Kubernetes objects outside `api`: plain dicts in Kubernetes' own shape."""

from typing import Any

Manifest = dict[str, Any]

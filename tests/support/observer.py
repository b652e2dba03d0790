"""An observer of one namespace: a watch of its own on jobs and pods, which tells a history what it sees."""

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import kube
from history import History

_PATHS = {"jobs": "/apis/trainwright.dev/v1alpha1/namespaces/{}/trainingjobs", "pods": "/api/v1/namespaces/{}/pods"}


class Observer:
    """Watches until it is closed; a watch that breaks begins again with a listing.

    Attributes:
        history: What it saw. To be read under `lock`.
    """

    def __init__(self, namespace: str, history: History) -> None:
        self.history = history
        self.lock = threading.Lock()
        self._namespace = namespace
        self._closing = threading.Event()
        self._streams: dict[str, subprocess.Popen[str]] = {}
        self._threads = [threading.Thread(target=self._follow, args=(kind,), daemon=True) for kind in _PATHS]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the watches."""
        self._closing.set()
        for stream in self._streams.values():
            stream.terminate()
        for thread in self._threads:
            thread.join(10)

    def _follow(self, kind: str) -> None:
        path = _PATHS[kind].format(self._namespace)
        while not self._closing.is_set():
            try:
                listing = json.loads(kube.kubectl("get", f"--raw={path}", "--request-timeout=10s"))
            except kube.CommandError:
                self._closing.wait(0.5)
                continue
            with self.lock:
                self.history.relisted(kind, listing["items"], time.monotonic())
            for event in self._events(kind, f"{path}?watch=1&resourceVersion={listing['metadata']['resourceVersion']}"):
                self._take(kind, event["object"], deleted=event["type"] == "DELETED")

    def _take(self, kind: str, item: dict[str, Any], *, deleted: bool) -> None:
        with self.lock:
            if kind == "pods":
                tell: Callable[[dict[str, Any]], None] = self.history.pod_gone if deleted else self.history.pod_seen
                tell(item)
            elif deleted:
                self.history.job_gone(item)
            else:
                self.history.job_seen(item, time.monotonic())

    def _events(self, kind: str, url: str) -> Iterator[dict[str, Any]]:
        """Yield what the watch says, until it ends or refuses to go on."""
        command = ["kubectl", "get", f"--raw={url}&timeoutSeconds=600"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=kube.environment()
        ) as stream:
            self._streams[kind] = stream
            with contextlib.suppress(ValueError):  # a line that was cut off
                for line in stream.stdout or ():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        break
                    yield event
            stream.terminate()

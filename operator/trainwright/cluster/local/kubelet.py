"""Runs pods as processes of this machine and reports their state in the pod status."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from trainwright.api.exit_codes import ExitCode, classify
from trainwright.api.mistakes import message_of
from trainwright.api.names import CONFIG_FILE, TERMINATION_MESSAGE_BYTES, TOKEN_FILE
from trainwright.api.worker import Termination, WorkerConfig
from trainwright.cluster.local import pod_status
from trainwright.cluster.local.mounts import TERMINATION_FILE, Folders, environment, localize, write_files
from trainwright.cluster.local.objects import now_text
from trainwright.cluster.local.process import PodProcess
from trainwright.cluster.port import Manifest, PodIdentity


class PodStore(Protocol):
    """Where pods are kept."""

    def current(self, pod: Manifest) -> Manifest:
        """Return the newest version of a pod."""

    def update(self, pod: Manifest) -> None:
        """Store a newer version of a pod."""

    def forget(self, pod: Manifest) -> None:
        """Remove a pod."""


class Kubelet:
    """Everything that runs here.

    Args:
        folders: Where pods keep their files and logs, and what stands for the volumes they mount.
        command: What a worker container runs.
        store: Where pods are kept.
    """

    def __init__(self, folders: Folders, command: Sequence[str], store: PodStore) -> None:
        self._folders = folders
        self._command = list(command)
        self._store = store
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, PodProcess] = {}
        self._tokens: dict[str, tuple[str, PodIdentity]] = {}
        self._closing = False

    def start(self, pod: Manifest, files: Mapping[str, str]) -> None:
        """Start a pod.

        Args:
            pod: The pod as stored.
            files: The ConfigMap it mounts.
        """
        life = self._live(pod, files)
        self._lives[pod["metadata"]["uid"]] = asyncio.create_task(life, name=f"pod {pod['metadata']['name']}")

    def stop(self, pod: Manifest, grace_seconds: int) -> None:
        """Ask a pod's process to stop, and kill all of it when the grace period is over."""
        uid = pod["metadata"]["uid"]
        if uid in self._processes:
            self._processes[uid].terminate()
        asyncio.get_running_loop().call_later(grace_seconds, self._kill, uid)

    def runs(self, pod: Manifest) -> bool:
        """Return whether the pod's process has not ended yet."""
        return pod["metadata"]["uid"] in self._lives

    def pod_of(self, token: str, audience: str) -> PodIdentity | None:
        """Return the running pod that the token was issued to for this audience."""
        for known, (its_audience, pod) in self._tokens.items():
            if secrets.compare_digest(known.encode(), token.encode()):
                return pod if its_audience == audience else None
        return None

    async def close(self) -> None:
        """Kill every process and wait until all are gone."""
        self._closing = True
        for process in self._processes.values():
            process.kill()
        await asyncio.gather(*self._lives.values(), return_exceptions=True)

    async def _live(self, pod: Manifest, files: Mapping[str, str]) -> None:
        """Run a pod's process to its end."""
        uid = pod["metadata"]["uid"]
        token = secrets.token_urlsafe(32)
        try:
            process = await self._launch(pod, files, token)
            self._processes[uid] = process
            if self._closing:
                # It was not there yet when all were killed.
                process.kill()
            present = self._store.current(pod)
            self._store.update(pod_status.running(present, now_text()))
            if "deletionTimestamp" in present["metadata"]:
                process.terminate()
            code = await process.wait()
            message = self._last_words(pod)
        except (OSError, ValueError) as error:
            code, message = ExitCode.USER_ERROR, _cannot_start(error)
        finally:
            for held in (self._processes, self._lives):
                held.pop(uid, None)
            self._tokens.pop(token, None)
        self._store.update(pod_status.ended(self._store.current(pod), code, message, now_text()))
        present = self._store.current(pod)
        if "deletionTimestamp" in present["metadata"]:
            self._store.forget(present)

    async def _launch(self, pod: Manifest, files: Mapping[str, str], token: str) -> PodProcess:
        metadata = pod["metadata"]
        name = metadata["name"]
        config = localize(WorkerConfig.model_validate_json(files[CONFIG_FILE]), self._folders, name)
        own = {CONFIG_FILE: config.model_dump_json(by_alias=True, exclude_none=True, indent=2), TERMINATION_FILE: ""}
        audience = _token_audience(pod)
        if audience is not None:
            own[TOKEN_FILE] = token
            self._tokens[token] = (audience, PodIdentity(metadata["namespace"], name, metadata["uid"]))
        folder = self._folders.pod(name)
        write_files(folder, {**files, **own})
        return await PodProcess.start(self._command, environment(pod, config, folder), folder, self._folders.log(name))

    def _last_words(self, pod: Manifest) -> str:
        path: Path = self._folders.pod(pod["metadata"]["name"]) / TERMINATION_FILE
        return path.read_bytes()[:TERMINATION_MESSAGE_BYTES].decode(errors="replace")

    def _kill(self, uid: str) -> None:
        if uid in self._processes:
            self._processes[uid].kill()


def _cannot_start(error: OSError | ValueError) -> str:
    """Return the termination message of a worker that never ran. Another try would end alike, so its class allows none."""
    if isinstance(error, ValidationError):
        found = [f"{'.'.join(map(str, each['loc']))}: {message_of(each)}" for each in error.errors(include_url=False)]
        reason = "; ".join(found)
    else:
        reason = str(error)
    code = ExitCode.USER_ERROR
    ending = Termination(exit_code=code, category=classify(code), message=f"cannot start the worker: {reason}"[:1024])
    return ending.model_dump_json(by_alias=True, exclude_none=True)


def _token_audience(pod: Manifest) -> str | None:
    """Return the audience of the token that the pod mounts, or None if it mounts none."""
    for volume in pod["spec"].get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources", ()):
            if "serviceAccountToken" in source:
                return str(source["serviceAccountToken"]["audience"])
    return None

"""Put local images on the worker nodes of a kind cluster, sending only the layers that they lack.

`load_image.py CLUSTER IMAGE...`. What `kind load` does too, but that sends the whole image every time: for a worker
image of 2 GB and a change of a few files this takes 15 s instead of minutes. It relies on containerd skipping a layer
whose snapshot it already holds.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import IO

LABEL = "trainwright.dev/loaded-from"
BLOCK = 512


def output(*command: str) -> str:
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def ctr(node: str, *args: str) -> list[str]:
    return output("docker", "exec", node, "ctr", "--namespace=k8s.io", *args).splitlines()


def worker_nodes(cluster: str) -> list[str]:
    """The control plane is tainted: no pod of a test runs there, and the space is better kept."""
    labels = [f"label=io.x-k8s.kind.{key}" for key in (f"cluster={cluster}", "role=worker")]
    return output("docker", "ps", "--format={{.Names}}", *(f"--filter={label}" for label in labels)).split()


class Image:
    """A local image, and how containerd will name its parts."""

    def __init__(self, name: str) -> None:
        (found,) = json.loads(output("docker", "image", "inspect", name))
        self.name = name
        self.id: str = found["Id"]
        self.layers: list[str] = found["RootFS"]["Layers"]

    def present_layers(self, snapshots: set[str]) -> set[str]:
        """Layers whose snapshot is among the given; a snapshot is named for its layer and all layers below."""
        present, chain = set(), ""
        for layer in self.layers:
            chain = f"sha256:{hashlib.sha256(f'{chain} {layer}'.encode()).hexdigest()}" if chain else layer
            if chain not in snapshots:
                break
            present.add(layer)
        return present

    def is_on(self, node: str) -> bool:
        lines = ctr(node, "images", "ls", f"name==docker.io/{self.name}")
        return any(f"{LABEL}={self.id}" in line for line in lines)


def lacking(node: str, images: Iterable[Image]) -> set[str]:
    snapshots = {line.split()[0] for line in ctr(node, "snapshots", "ls")[1:]}
    return {layer for image in images for layer in set(image.layers) - image.present_layers(snapshots)}


def copy_without(source: IO[bytes], targets: list[IO[bytes]], unneeded: set[str]) -> None:
    """Copy a tar stream to every target, leaving out the layers that none of them needs."""
    with tarfile.open(fileobj=source, mode="r|", bufsize=1 << 20) as archive:
        for member in archive:
            if f"sha256:{member.name.rpartition('/')[2]}" in unneeded:
                continue
            send(targets, member.tobuf(tarfile.PAX_FORMAT))
            data = archive.extractfile(member) if member.isfile() else None
            while data and (chunk := data.read(1 << 20)):
                send(targets, chunk)
            send(targets, bytes(-member.size % BLOCK if data else 0))
    send(targets, bytes(2 * BLOCK))


def send(targets: list[IO[bytes]], chunk: bytes) -> None:
    for target in targets:
        target.write(chunk)


def load(image: Image, nodes: list[str]) -> None:
    needed = set().union(*(lacking(node, [image]) for node in nodes))
    ctr_import = ["ctr", "--namespace=k8s.io", "images", "import", "--local", f"--label={LABEL}={image.id}"]
    # kind's nodes keep no layers beside their snapshots, and neither does this.
    ctr_import += ["--discard-unpacked-layers", "--snapshotter=overlayfs", "-"]
    importing = [
        subprocess.Popen(["docker", "exec", "-i", node, *ctr_import], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for node in nodes
    ]
    pipes = [process.stdin for process in importing if process.stdin]
    with subprocess.Popen(["docker", "save", image.name], stdout=subprocess.PIPE) as saving:
        if saving.stdout:
            copy_without(saving.stdout, pipes, set(image.layers) - needed)
    for pipe in pipes:
        pipe.close()
    results = [saving.returncode, *(process.wait() for process in importing)]
    if any(results):
        sys.exit(f"cannot load {image.name} into {', '.join(nodes)}")


def main(cluster: str, *names: str) -> None:
    nodes = worker_nodes(cluster)

    def bring(name: str) -> None:
        image = Image(name)
        stale = [node for node in nodes if not image.is_on(node)]
        if stale:
            load(image, stale)

    # The engine takes seconds to lay out a large image before it sends anything: the images overlap.
    with ThreadPoolExecutor() as pool:
        list(pool.map(bring, names))


if __name__ == "__main__":
    main(*sys.argv[1:])

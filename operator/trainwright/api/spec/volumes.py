"""Volumes of the workers."""

from pydantic import Field

from trainwright.api.base import Model, Rule, one_of
from trainwright.api.spec.primitives import DnsLabel, DnsName, Quantity


class ClaimVolume(Model):
    """A PersistentVolumeClaim of the job's own namespace."""

    claim_name: DnsName = Field(description="Name of the claim.")


class ConfigMapVolume(Model):
    """A ConfigMap of the job's own namespace."""

    name: DnsName = Field(description="Name of the ConfigMap.")


class SecretVolume(Model):
    """A Secret of the job's own namespace, as files. The kubelet reads it; the operator never sees it."""

    secret_name: DnsName = Field(description="Name of the Secret.")


class EmptyDirVolume(Model):
    """Scratch space that lives as long as the pod."""

    medium: str | None = Field(None, pattern="^(Memory)?$", max_length=6, description="Memory for a RAM disk.")
    size_limit: Quantity | None = Field(None, description="Largest size.")


RESERVED_PATHS = ("/checkpoints", "/etc", "/var", "/run", "/proc", "/sys", "/dev", "/tmp", "/opt/trainwright")  # noqa: S108
"""Paths at which users may not mount volumes, because Trainwright or the system uses them."""


class VolumeSpec(Model):
    """A volume and its mount path. Host paths are not allowed."""

    name: DnsLabel = Field(description="Name of the volume.")
    mount_path: str = Field(
        min_length=2,
        max_length=1024,
        pattern=r"^(/\.?[^/:.][^/:]*)+$",
        description="Path in the workers. Mount data at /data to use relative paths in dataset.",
    )
    sub_path: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        pattern=r"^\.?[^/.][^/]*(/\.?[^/.][^/]*)*$",
        description="Folder within the volume to mount instead of all of it.",
    )
    read_only: bool = Field(False, description="Mount read-only.")
    persistent_volume_claim: ClaimVolume | None = Field(None, description="A PersistentVolumeClaim.")
    config_map: ConfigMapVolume | None = Field(None, description="A ConfigMap.")
    secret: SecretVolume | None = Field(None, description="A Secret.")
    empty_dir: EmptyDirVolume | None = Field(None, description="Scratch space.")

    rules = (
        one_of("persistent_volume_claim", "config_map", "secret", "empty_dir", what="volume"),
        Rule(
            field="mountPath",
            message="this path is reserved for Trainwright or the system: mount the volume elsewhere",
            cel=f"!{list(RESERVED_PATHS)}.exists(own, self.mountPath == own || self.mountPath.startsWith(own + '/'))",
            holds=lambda self: (
                not any(self.mount_path == own or self.mount_path.startswith(own + "/") for own in RESERVED_PATHS)
            ),
        ),
    )

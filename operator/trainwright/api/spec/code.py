"""The user's own code: import paths of networks and losses, and the folder of their modules."""

from typing import Annotated

from pydantic import Field

from trainwright.api.base import Model, Rule, one_of
from trainwright.api.spec.paths import Path, is_uri
from trainwright.api.spec.volumes import ConfigMapVolume

ImportPath = Annotated[
    str,
    Field(
        min_length=3,
        max_length=253,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$",
    ),
]
"""A module and a name in it, such as `nets:UNet` or `my_package.losses:focal`."""


class CodeSpec(Model):
    """The folder with the modules of own code. Without it, modules of the worker image are used."""

    config_map: ConfigMapVolume | None = Field(
        None, description="A ConfigMap of the job's own namespace whose keys are the files, such as nets.py."
    )
    path: Path | None = Field(None, description="A folder in a mounted volume; a relative path starts at /data.")

    rules = (
        one_of("config_map", "path", what="code"),
        Rule(
            field="path",
            message="must be a folder in a mounted volume, not a URI",
            cel="!has(self.path) || !self.path.contains('://')",
            holds=lambda self: self.path is None or not is_uri(self.path),
        ),
    )

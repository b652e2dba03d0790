"""Environment variables of the workers."""

from pydantic import Field

from trainwright.api.base import Model, Rule, one_of
from trainwright.api.spec.primitives import DnsName


class SecretKey(Model):
    """One value of a Secret of the job's own namespace."""

    name: DnsName = Field(description="Name of the Secret.")
    key: str = Field(min_length=1, max_length=253, pattern="^[-._a-zA-Z0-9]+$", description="Key within it.")


class ConfigMapKey(Model):
    """One value of a ConfigMap of the job's own namespace."""

    name: DnsName = Field(description="Name of the ConfigMap.")
    key: str = Field(min_length=1, max_length=253, pattern="^[-._a-zA-Z0-9]+$", description="Key within it.")


class PodField(Model):
    """A field of the worker's own pod."""

    field_path: str = Field(
        max_length=400,
        pattern=r"^(metadata\.(name|namespace|uid)|metadata\.(labels|annotations)\['[-._/A-Za-z0-9]+'\]|"
        r"spec\.(nodeName|serviceAccountName)|status\.(hostIP|podIP))$",
        description="metadata.name, metadata.namespace, metadata.uid, metadata.labels['KEY'], metadata.annotations['KEY'], "
        "spec.nodeName, spec.serviceAccountName, status.hostIP or status.podIP.",
    )


class ValueSource(Model):
    """Where the value of a variable comes from."""

    secret_key_ref: SecretKey | None = Field(
        None, description="A Secret that the kubelet reads when the worker starts; the operator never sees it."
    )
    config_map_key_ref: ConfigMapKey | None = Field(None, description="A ConfigMap.")
    field_ref: PodField | None = Field(None, description="A field of the worker's own pod.")

    @property
    def number(self) -> int:
        """How many places are named; exactly one may be."""
        return sum(each is not None for each in (self.secret_key_ref, self.config_map_key_ref, self.field_ref))


class EnvVar(Model):
    """An environment variable of the worker."""

    name: str = Field(
        min_length=1, max_length=253, pattern="^[A-Za-z_][A-Za-z0-9_]*$", description="Name of the variable."
    )
    value: str = Field("", max_length=32_768, description="Its value.")
    value_from: ValueSource | None = Field(None, description="Where its value comes from, for credentials.")

    rules = (
        Rule(
            field="value",
            message="set value or valueFrom, not both",
            cel="!has(self.valueFrom) || !has(self.value) || self.value == ''",
            holds=lambda self: self.value_from is None or not self.value,
        ),
        # Here, since the admission policy has no rules about parts of the items of a list.
        Rule(
            field="valueFrom",
            message="set exactly one of secretKeyRef, configMapKeyRef, fieldRef",
            cel="!has(self.valueFrom) || [has(self.valueFrom.secretKeyRef), has(self.valueFrom.configMapKeyRef), "
            "has(self.valueFrom.fieldRef)].filter(set, set).size() == 1",
            holds=lambda self: self.value_from is None or self.value_from.number == 1,
        ),
    )


class NamedSource(Model):
    """A ConfigMap or a Secret of the job's own namespace."""

    name: DnsName = Field(description="Its name.")
    optional: bool = Field(False, description="Whether workers start without it if it does not exist.")


class EnvFromSource(Model):
    """All values of a ConfigMap or a Secret, as environment variables."""

    prefix: str = Field(
        "", max_length=253, pattern="^([A-Za-z_][A-Za-z0-9_]*)?$", description="Put before the name of each variable."
    )
    config_map_ref: NamedSource | None = Field(None, description="A ConfigMap.")
    secret_ref: NamedSource | None = Field(
        None, description="A Secret that the kubelet reads; the operator never sees it."
    )

    rules = (one_of("config_map_ref", "secret_ref", what="envFrom"),)

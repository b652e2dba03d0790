"""Names and amounts as Kubernetes writes them."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from trainwright.api.amounts import QUANTITY
from trainwright.api.spec.placement import LabelKey, without_nulls

DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
DnsName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
QUANTITY_LENGTH = 64


def _quantity(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    if isinstance(value, str) and len(value) <= QUANTITY_LENGTH and re.fullmatch(QUANTITY, value):
        return value
    raise PydanticCustomError("quantity", "must be a quantity: a whole number, or text like 500m, 1.5 or 16Gi")


Quantity = Annotated[
    int | str,
    PlainValidator(_quantity),
    WithJsonSchema(
        {
            # One schema for both forms: the pattern binds text, the bound binds numbers.
            "x-kubernetes-int-or-string": True,
            "maxLength": QUANTITY_LENGTH,
            "pattern": QUANTITY,
            "minimum": 0,
        }
    ),
]


Quantities = Annotated[dict[LabelKey, Quantity], Field(max_length=16), BeforeValidator(without_nulls)]

"""Quantities, durations and GPUs: each has one grammar and one answer."""

from decimal import Decimal

import pytest

from trainwright.api.amounts import clock_text, duration_text, multiply_quantity, quantity_value
from trainwright.api.devices import count_gpus, is_gpu


@pytest.mark.parametrize(
    ("quantity", "value", "doubled"),
    [
        (2, "2", "4"),
        ("500m", "0.5", "1000m"),
        ("1.5Gi", "1610612736", "3Gi"),
        (".5", "0.5", "1"),
        ("+3k", "3000", "6k"),
        ("2e3", "2000", "4e3"),
        ("100u", "0.0001", "200u"),
    ],
)
def test_quantities(quantity, value, doubled):
    assert quantity_value(quantity) == Decimal(value)
    assert multiply_quantity(quantity, 2) == doubled


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "-1", "1g", "1e999", "0x10"])
def test_what_is_no_quantity(text):
    with pytest.raises(ValueError, match="not a quantity"):
        quantity_value(text)


@pytest.mark.parametrize(
    ("seconds", "age", "clock"),
    [(5, "5s", "0:05"), (130, "2m10s", "2:10"), (11_100, "3h5m", "3:05:00"), (352_800, "4d2h", "98:00:00")],
)
def test_durations(seconds, age, clock):
    assert (duration_text(seconds), clock_text(seconds)) == (age, clock)


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("nvidia.com/gpu", True),
        ("amd.com/gpu", True),
        ("nvidia.com/gpu.shared", True),
        ("nvidia.com/mig-1g.5gb", True),
        ("gpu.intel.com/i915", False),
        ("example.com/gpus", False),
        ("gpu", False),
        ("cpu", False),
    ],
)
def test_what_is_a_gpu(resource, expected):
    assert is_gpu(resource) == expected
    assert count_gpus({resource: "2", "cpu": 8}) == 2 * expected

"""Network interfaces that gloo and NCCL are told to use: only what cannot work is refused."""

import json

import pytest

from trainwright.api.spec import WorkersSpec
from trainwright_worker.distributed.interfaces import check_interfaces
from trainwright_worker.errors import UserError, explain

GPUS = {"resources": {"limits": {"nvidia.com/gpu": 1}}}


def refusal(monkeypatch, env, **workers):
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (2, "eth0"), (3, "eth1")])
    try:
        check_interfaces(WorkersSpec.model_validate_json(json.dumps({"count": 2, **workers})))
    except UserError as error:
        return f"{error.message}; {error.hint}"
    return None


@pytest.mark.parametrize("value", ["eth0", "lo,eth1", "lo,", ""])
def test_gloo_gets_what_it_can_use(monkeypatch, value):
    assert refusal(monkeypatch, {"GLOO_SOCKET_IFNAME": value}) is None


@pytest.mark.parametrize("value", ["ib0", "eth", "lo,ib0", "^lo"])
def test_gloo_needs_every_interface_by_its_whole_name(monkeypatch, value):
    said = refusal(monkeypatch, {"GLOO_SOCKET_IFNAME": value})
    assert f"GLOO_SOCKET_IFNAME is {value.rpartition(',')[2]}, but this worker has no such network interface" in said
    assert "name one that it has (eth0, eth1, lo)" in said


@pytest.mark.parametrize(
    ("value", "usable"),
    [
        ("eth", True),
        ("ib,eth0", True),
        ("eth0:7000", True),
        ("=eth1", True),
        ("^lo", True),
        ("^=lo,eth0", True),
        ("", True),
        ("ib", False),
        ("=eth", False),
        ("^lo,eth", False),
    ],
)
def test_nccl_reads_prefixes_exclusions_and_whole_names(monkeypatch, value, usable):
    said = refusal(monkeypatch, {"NCCL_SOCKET_IFNAME": value}, **GPUS)
    assert (said is None) == usable, said
    assert refusal(monkeypatch, {"NCCL_SOCKET_IFNAME": value}) is None, "without GPUs there is no NCCL"


def test_a_single_process_talks_to_no_other(monkeypatch):
    wrong = {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_SOCKET_IFNAME": "ib0"}
    assert refusal(monkeypatch, wrong, count=1, **GPUS) is None
    assert refusal(monkeypatch, wrong, count=1, processesPerWorker=2) is not None


def test_what_gloo_says_of_an_interface_without_an_address_is_no_lost_peer():
    text = "[enforce fail at /x/gloo/transport/tcp/device.cc:84] ifa != nullptr. Unable to find address for: ifb0"
    found = explain(RuntimeError(text))
    assert isinstance(found, UserError)
    assert "GLOO_SOCKET_IFNAME is ifb0" in found.message

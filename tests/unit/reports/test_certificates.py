"""The CA of the reports endpoint and what it signs."""

import ssl
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from trainwright.reports.certificates import (
    AUTHORITY_LIFETIME,
    RENEW_BEFORE,
    KeyPair,
    create_authority,
    is_due,
    issue,
    linked,
    load,
    server_context,
)

HOST = "reports.system.svc"


def _read(pair):
    return x509.load_pem_x509_certificate(pair.certificate)


def test_signs_for_names_and_addresses():
    authority = create_authority()
    pair = issue(authority, ["reports.system.svc", "127.0.0.1"])
    certificate = _read(pair)
    certificate.verify_directly_issued_by(_read(authority))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["reports.system.svc"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert certificate.not_valid_before_utc < datetime.now(UTC)
    assert certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=89)


def test_the_authority_signs_and_lasts():
    certificate = _read(create_authority())
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=1094)


def test_every_certificate_has_its_own_key():
    authority = create_authority()
    assert issue(authority, ["a"]).key != issue(authority, ["a"]).key


def test_serves_with_it():
    context = server_context()
    load(context, issue(create_authority(), ["a"]))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_refuses_a_key_that_is_none():
    authority = create_authority()
    with pytest.raises(ValueError, match=r"(?i)pem|deserialize|key"):
        issue(KeyPair(authority.certificate, b"nonsense"), ["a"])


@pytest.mark.parametrize("other", ["key", "certificate"])
def test_refuses_a_key_of_another_certificate(other):
    first, second = create_authority(), create_authority()
    mixed = {"key": (first.certificate, second.key), "certificate": (second.certificate, first.key)}[other]
    with pytest.raises(ValueError, match="not that of its certificate"):
        issue(KeyPair(*mixed), ["a"])


@pytest.mark.parametrize(
    ("lifetime", "now", "due"),
    [
        (AUTHORITY_LIFETIME, timedelta(), False),
        (AUTHORITY_LIFETIME, AUTHORITY_LIFETIME - RENEW_BEFORE - timedelta(hours=1), False),
        (AUTHORITY_LIFETIME, AUTHORITY_LIFETIME - RENEW_BEFORE + timedelta(hours=1), True),
        (AUTHORITY_LIFETIME, AUTHORITY_LIFETIME + timedelta(days=1), True),
        # It was created while the clock was ahead by a day.
        (AUTHORITY_LIFETIME, -timedelta(days=1), True),
        (RENEW_BEFORE, timedelta(), True),
    ],
)
def test_a_ca_is_due_well_before_its_end(lifetime, now, due):
    assert is_due(create_authority(lifetime), datetime.now(UTC) + now) is due


def trusts(folder, trusted, authority, at=timedelta()):
    """Return whether OpenSSL, which the workers use, accepts a certificate that the CA issues now, when only one CA is trusted."""
    served = issue(authority, [HOST], lifetime=timedelta(days=10_000))
    for name, content in {"ca": trusted.certificate, "served": served.certificate, "links": served.links}.items():
        (folder / name).write_bytes(content)
    moment = str(int((datetime.now(UTC) + at).timestamp()))
    links = ["-untrusted", str(folder / "links")] if served.links else []
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-verify_hostname",
        HOST,
        "-attime",
        moment,
    ]
    command += ["-no-CApath", "-no-CAstore", "-CAfile", str(folder / "ca"), *links, str(folder / "served")]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_who_trusts_a_former_ca_trusts_the_new_one_until_the_end_of_the_former(tmp_path):
    old, stranger = create_authority(timedelta(days=100)), create_authority()
    new = linked(create_authority(), old)
    assert trusts(tmp_path, old, new)
    assert trusts(tmp_path, old, new, timedelta(days=99))
    assert not trusts(tmp_path, old, new, timedelta(days=101))
    assert trusts(tmp_path, new, new, timedelta(days=101))
    assert not trusts(tmp_path, stranger, new)
    assert not trusts(tmp_path, new, old)


def test_links_lead_over_several_replacements_but_not_for_ever(tmp_path):
    authorities = [create_authority()]
    for _ in range(9):
        authorities.append(linked(create_authority(), authorities[-1]))
    newest = authorities[-1]
    assert [trusts(tmp_path, each, newest) for each in authorities] == [False] + 9 * [True]


def test_an_older_ca_that_is_put_back_is_trusted_by_the_workers_of_the_newer_one(tmp_path):
    old = create_authority()
    new = linked(create_authority(), old)
    again = linked(old, new)
    assert trusts(tmp_path, old, again)
    assert trusts(tmp_path, new, again)


def test_nothing_is_linked_twice_or_to_a_ca_that_has_expired():
    old, expired = create_authority(), create_authority(timedelta(minutes=-1))
    new = linked(create_authority(), old)
    assert linked(new, old) == new
    assert linked(new, new) == new
    assert linked(new, expired) == new

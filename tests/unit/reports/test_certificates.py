"""The CA of the reports endpoint and what it signs."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from trainwright.reports.certificates import KeyPair, create_authority, issue, load, server_context


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
    assert certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=364)


def test_the_authority_signs_and_lasts():
    certificate = _read(create_authority())
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=3600)


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

"""A small certificate authority for the reports endpoint. It creates and signs certificates but does not store them.

A worker trusts the one CA that its ConfigMap holds, for as long as it runs. When the CA is replaced, the former CA signs the key
of the new one (a link), and the endpoint sends this link with its certificate. So workers that trust the former CA accept what
the new one signs, until the former CA expires, while new workers trust the new CA alone. The key of the former CA is not kept.
All CAs have the same name. A link is therefore "self-issued" (RFC 5280), and does not count towards the CAs' path length of 0.
"""

import contextlib
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVING_LIFETIME = timedelta(days=90)
AUTHORITY_LIFETIME = timedelta(days=3 * 365)
RENEW_BEFORE = timedelta(days=365)
"""How long before its end a CA is replaced. A worker that starts just before can report for as long."""
_MOST_LINKS = 8
"""Former CAs whose workers are still served; each costs half a kilobyte per handshake."""
_BACKDATE = timedelta(minutes=5)
"""Certificates become valid slightly in the past, because other clocks may be behind ours."""


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, in PEM.

    Attributes:
        certificate: The certificate, of a CA or of a server.
        key: Its private key.
        links: Certificates that lead from the CA to former CAs, newest first.
    """

    certificate: bytes
    key: bytes
    links: bytes = b""


def create_authority(lifetime: timedelta = AUTHORITY_LIFETIME) -> KeyPair:
    """Return a new certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    begin, end = _lasting(lifetime)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Trainwright reports CA")])
    certificate = _of_authority(name, key.public_key(), begin, end).sign(key, hashes.SHA256())
    return KeyPair(_pem(certificate), _key_pem(key))


def is_due(authority: KeyPair, now: datetime) -> bool:
    """Return whether it is time to replace the CA: its end is near, or it was created with a clock that was wrong."""
    certificate = x509.load_pem_x509_certificate(authority.certificate)
    return not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - RENEW_BEFORE


def linked(authority: KeyPair, former: KeyPair) -> KeyPair:
    """Return the CA with what workers need that trust the former one. Nothing changes if they need nothing, or never will.

    Raises:
        ValueError: One of the two is not readable.
    """
    signer, issuer = _signer(former)
    successor, certificate = _signer(authority)
    links = _read_links(authority)
    if _is_signed_by(issuer, (certificate, *links)) or issuer.not_valid_after_utc <= datetime.now(UTC):
        return authority
    validity = issuer.not_valid_before_utc, issuer.not_valid_after_utc
    link = (
        _of_authority(issuer.subject, successor.public_key(), *validity)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    kept = (link, *links, *_read_links(former))[:_MOST_LINKS]
    return replace(authority, links=b"".join(_pem(each) for each in kept))


def issue(authority: KeyPair, hosts: Sequence[str], lifetime: timedelta = SERVING_LIFETIME) -> KeyPair:
    """Return a serving certificate for these DNS names and IP addresses, signed by the authority, with the authority's links.

    Raises:
        ValueError: The authority is not readable, or its key is another one's or of another kind than ours.
    """
    signer, issuer = _signer(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trainwright-reports")])
    certificate = (
        _builder(name, issuer.subject, key.public_key(), *_lasting(lifetime))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return KeyPair(_pem(certificate), _key_pem(key), authority.links)


def server_context() -> ssl.SSLContext:
    """Return a TLS context without a certificate yet; see `load`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def load(context: ssl.SSLContext, pair: KeyPair) -> None:
    """Make the context present this certificate from the next connection on."""
    with _as_file(pair.certificate + pair.links + pair.key) as path:
        context.load_cert_chain(path)


def _signer(authority: KeyPair) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Return the key and the certificate of a CA.

    Raises:
        ValueError: One is not readable, or they do not belong together.
    """
    key = serialization.load_pem_private_key(authority.key, password=None)
    certificate = x509.load_pem_x509_certificate(authority.certificate)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the key of the reports CA is not an elliptic curve key")  # noqa: TRY004 - the input is text
    if key.public_key() != certificate.public_key():
        raise ValueError("the key of the reports CA is not that of its certificate")
    return key, certificate


def _read_links(authority: KeyPair) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(authority.links) if authority.links else []


def _is_signed_by(issuer: x509.Certificate, certificates: Iterable[x509.Certificate]) -> bool:
    for certificate in certificates:
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def _of_authority(
    name: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    """Return the certificate of a CA, to be signed by itself or by a former CA."""
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(name, name, key, begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _lasting(lifetime: timedelta) -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    return now - _BACKDATE, now + lifetime


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Provide the content as a temporary file, because OpenSSL reads keys only from files. In memory where possible."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("certificate")
        try:
            os.write(handle, content)
            yield f"/proc/self/fd/{handle}"
        finally:
            os.close(handle)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "certificate.pem")
            path.touch(mode=0o600)
            path.write_bytes(content)
            yield str(path)

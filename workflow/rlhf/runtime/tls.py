"""Mutual TLS between the model servers of one job and their clients. No torch in here.

Every user of a node reaches its loopback interface; only who can read the client's key may use
these servers. The certificates are made for one job, on its node. The key that signs them is
never written, so nobody can make more of them.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rlhf.errors import ServingError

LOOPBACK = "127.0.0.1"
FOLDER_VARIABLE = "RLHF_TLS"  # tells a stage the folder of its certificates
VALID = datetime.timedelta(days=366)  # longer than any job; the keys go with the job
CLOCK_SKEW = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificates:
    """The certificates of one job: PEM files in a folder that only its owner enters."""

    folder: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate, by which each side knows the other."""
        return self.folder / "ca.pem"

    @property
    def server_cert(self) -> Path:
        """The servers' certificate, good for the loopback interface alone."""
        return self.folder / "server.pem"

    @property
    def server_key(self) -> Path:
        """The servers' private key."""
        return self.folder / "server.key"

    @property
    def client_cert(self) -> Path:
        """The clients' certificate."""
        return self.folder / "client.pem"

    @property
    def client_key(self) -> Path:
        """The clients' private key."""
        return self.folder / "client.key"

    def check_client(self) -> None:
        """Make sure that a client can use its files; gRPC would abort the process without one.

        Raises:
            ServingError: a file is missing, unreadable or damaged, or the key is another's.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            for path in (self.ca, self.client_cert, self.client_key):
                path.read_bytes()  # its error names the file; that of ssl does not
            context.load_verify_locations(self.ca)
            context.load_cert_chain(self.client_cert, self.client_key)
        except OSError as error:  # ssl.SSLError is one
            raise ServingError(
                f"The client's certificates can't be used: {error}",
                where=self.folder,
                expected=f"{self.ca.name}, {self.client_cert.name} and {self.client_key.name} "
                "of this job",
                hint=f"start the stage through `rlhf launch`, which makes them and sets "
                f"{FOLDER_VARIABLE}",
            ) from None

    def mistrust(self, server: str, endpoint: str, why: str) -> ServingError:
        """What to say where a client with these and a server do not know each other.

        Args:
            server: what it is called, such as ``reward server``.
            endpoint: its ``host:port``.
            why: what the libraries said.
        """
        return ServingError(
            f"The {server} and this run do not trust each other: {why}",
            where=endpoint,
            expected=f"a server of this job, which knows the certificates in {self.folder}",
            hint=f"{FOLDER_VARIABLE} and the endpoint have to come from the same `rlhf launch`",
        )


def make_certificates(folder: str | Path) -> Certificates:
    """Make the certificates of one job: an authority, a server on the loopback, a client.

    Args:
        folder: folder to make, for the owner alone; the folder above it exists.

    Raises:
        FileExistsError: the folder is there already, made by who knows whom.
    """
    made = Certificates(Path(folder))
    made.folder.mkdir(mode=0o700)
    authority = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("authority", authority, None, authority, [])
    _write(made.ca, ca.public_bytes(Encoding.PEM))
    addresses = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(LOOPBACK))]
    )
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    sides: list[tuple[str, Path, Path, list[x509.ExtensionType]]] = [
        ("server", made.server_cert, made.server_key, [server, addresses]),
        ("client", made.client_cert, made.client_key, [client]),
    ]
    for name, cert_path, key_path, extensions in sides:
        key = ec.generate_private_key(ec.SECP256R1())
        cert = _certificate(name, key, ca, authority, extensions)
        _write(cert_path, cert.public_bytes(Encoding.PEM))
        _write(key_path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    signer: ec.EllipticCurvePrivateKey,
    extensions: list[x509.ExtensionType],
) -> x509.Certificate:
    """A certificate for ``key``; the authority's own where there is no ``issuer``."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"rlhf {name}")])
    now = datetime.datetime.now(datetime.UTC)
    is_authority = issuer is None
    usages = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "crl_sign", "encipher_only", "decipher_only"), False
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(is_authority, 0 if is_authority else None), True)
        .add_extension(
            x509.KeyUsage(digital_signature=not is_authority, key_cert_sign=is_authority, **usages),
            True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
        )
    )
    for extension in extensions:
        builder = builder.add_extension(extension, False)
    return builder.sign(signer, hashes.SHA256())


def _write(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)

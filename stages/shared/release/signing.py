"""Sign a file with a key that lies on this machine: Ed25519, whose signatures of equal bytes are equal."""

from pathlib import Path

from shared.kit.stage import StageError, one_line, read_bytes


def sign(content: bytes, key_file: Path) -> bytes:
    """The signature of some bytes, 64 bytes long (RFC 8032).

    `openssl genpkey -algorithm ed25519 -out KEY` makes a key, `openssl pkey -in KEY -pubout -out PUBLIC` its public
    part, and `openssl pkeyutl -verify -pubin -inkey PUBLIC -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig` checks.

    Raises:
        StageError: The file holds no such key, or one with a passphrase.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_bytes(key_file), password=None)
    except OSError as error:
        raise StageError(f"release.signing_key = {key_file}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise StageError(f"release.signing_key = {key_file}: no key without a passphrase: {one_line(error)}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise StageError(f"release.signing_key = {key_file}: expected an Ed25519 key")
    return key.sign(content)

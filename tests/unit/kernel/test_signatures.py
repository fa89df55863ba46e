"""What a worker signs with is HMAC, whatever the key and the hash."""

from __future__ import annotations

import hmac

import pytest

from jupyter_pool.kernel.channels import PoolSession

PARTS = [b'{"msg_id": "1"}', b"{}", b"", b'{"code": "1 + 1"}' * 100]


@pytest.mark.parametrize("scheme", ["hmac-sha256", "hmac-sha512", "hmac-sha3_256", "hmac-md5"])
@pytest.mark.parametrize("length", [1, 36, 64, 65, 128, 129, 144, 1000])
def test_a_signature_is_the_hmac_of_the_parts(scheme: str, length: int) -> None:
    key = bytes(range(1, 251)) * 4
    session = PoolSession(key=key[:length], signature_scheme=scheme)
    expected = hmac.digest(key[:length], b"".join(PARTS), scheme.partition("-")[2]).hex().encode()
    assert [session.sign(PARTS) for _ in range(2)] == [expected, expected]


def test_another_key_signs_otherwise() -> None:
    session = PoolSession(key=b"one")
    first = session.sign(PARTS)
    session.key = b"other"
    assert session.sign(PARTS) == hmac.digest(b"other", b"".join(PARTS), "sha256").hex().encode()
    assert session.sign(PARTS) != first


def test_without_a_key_nothing_is_signed() -> None:
    assert PoolSession(key=b"").sign(PARTS) == b""

"""Which addresses webhooks may go to."""

from __future__ import annotations

import pytest

from alerts.guard import AddressGuard, AddressRefused, parse_networks
from domain.errors import Fatal

PUBLIC = ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
INWARD = [
    "127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "255.255.255.255", "192.0.2.1", "198.18.0.1", "224.0.0.1", "224.0.1.1", "240.0.0.1", "::1", "::", "fe80::1",
    "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1", "::127.0.0.1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "::ffff:224.0.1.1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:0a00:1::1", "64:ff9b::127.0.0.1",
    "64:ff9b::169.254.169.254", "64:ff9b:1::1", "localhost", "",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    assert AddressGuard().choose([address], encrypted=True) == address


@pytest.mark.parametrize("address", INWARD)
def test_addresses_that_lead_inward_are_refused_alone_and_among_others(address: str) -> None:
    for found in ([address], ["8.8.8.8", address], [address, "8.8.8.8"]):
        with pytest.raises(AddressRefused) as refused:
            AddressGuard().choose(found, encrypted=True)
        assert refused.value.code == "private_address"
        assert not address or address not in str(refused.value)


def test_a_name_without_addresses_is_refused() -> None:
    with pytest.raises(AddressRefused, match="no address"):
        AddressGuard().choose([], encrypted=True)


def test_what_is_allowed_passes_and_its_neighbours_do_not() -> None:
    guard = AddressGuard(parse_networks("10.1.0.0/16, ::1"))
    for address in ("10.1.2.3", "::1", "::ffff:10.1.2.3"):
        assert guard.choose([address], encrypted=False) == address
    for address in ("10.2.0.1", "::2", "127.0.0.1"):
        with pytest.raises(AddressRefused):
            guard.choose(["10.1.2.3", address], encrypted=True)


def test_alerts_leave_the_house_encrypted_only() -> None:
    guard = AddressGuard(parse_networks("10.1.0.0/16"))
    with pytest.raises(AddressRefused) as refused:
        guard.choose(["8.8.8.8"], encrypted=False)
    assert refused.value.code == "not_encrypted"


def test_a_list_of_networks_that_is_none_says_so() -> None:
    assert parse_networks(" ") == ()
    for text in ("10.0.0.0/33", "10.0.0.1/8", "localhost"):
        with pytest.raises(Fatal, match="TIDEGATE_WEBHOOK_PRIVATE"):
            parse_networks(text)

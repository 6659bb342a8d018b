"""Which of Debian's packages has the kernel that make test-vm is to run."""

import pytest

from tests.vm.kernels import NEWEST, package_of

NAMES = [
    "linux-image-6.1.0-9-amd64",
    "linux-image-6.1.0-50-amd64",
    "linux-image-6.1.0-50-amd64-dbg",
    "linux-image-6.1.0-50-cloud-amd64",
    "linux-image-6.1.0-50-rt-amd64",
    "linux-image-6.1.0-50-arm64",
    "linux-image-6.12.117+deb13-amd64",
    "linux-image-6.12.9+deb13-amd64",
    "linux-image-amd64",
]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("6.1", "linux-image-6.1.0-50-amd64"),
        ("6.12", "linux-image-6.12.117+deb13-amd64"),
        (NEWEST, "linux-image-6.12.117+deb13-amd64"),
    ],
)
def test_the_newest_package_of_a_version_is_found(wanted: str, expected: str) -> None:
    assert package_of(wanted, "amd64", NAMES) == expected


def test_a_kernel_that_debian_does_not_have_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"no kernel 6\.2 for amd64"):
        package_of("6.2", "amd64", NAMES)

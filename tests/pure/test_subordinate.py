"""Subordinate uids are charged to the user to whom they were given (subuid(5))."""

import pytest

from gcorefs.mount.errors import RequestError, RequestReason
from gcorefs.mount.limits import Budget
from gcorefs.mount.subordinate import Subordinates

PID = 4711
USERS = {"root": 0, "alice": 1000, "bob": 1001}
TEXT = """\
alice:100000:65536
bob:165536:65536
# carol:300000:10
1002:400000:10
nobody knows:500000:10
bob:100010:5
bob:600000:0
alice:no:number
root:700000:10
"""


@pytest.mark.parametrize(
    ("uid", "owner"),
    [
        (0, 0),
        (1000, 1000),
        (99_999, 99_999),
        (100_000, 1000),
        (100_009, 1000),
        (100_010, 1001),
        (100_014, 1001),
        (100_015, 1000),
        (165_535, 1000),
        (165_536, 1001),
        (231_071, 1001),
        (231_072, 231_072),
        (300_000, 300_000),
        (400_009, 1002),
        (400_010, 400_010),
        (500_000, 500_000),
        (600_000, 600_000),
        (700_000, 700_000),
    ],
)
def test_a_uid_is_its_owner_s(uid: int, owner: int) -> None:
    assert Subordinates(TEXT, USERS.get).owner(uid) == owner


def test_without_a_table_everybody_is_their_own() -> None:
    assert Subordinates("", USERS.get).owner(100_000) == 100_000


def test_a_user_with_many_uids_has_one_share() -> None:
    owner = Subordinates(TEXT, USERS.get).owner
    budget = Budget(5, 12, RequestReason.USER_REQUESTS, RequestReason.ALL_REQUESTS, owner)
    for uid in (1000, 100_000, 100_001, 100_002, 165_535):
        budget.take(uid, PID)
    with pytest.raises(RequestError) as caught:
        budget.take(100_003, PID)
    assert caught.value.reason is RequestReason.USER_REQUESTS
    assert "uid 100003" in str(caught.value)
    with budget.lent(165_536, PID), budget.kept(165_537, PID):
        pass
    budget.give_back(1000)  # what one uid gives back, another may have
    budget.take(100_003, PID)

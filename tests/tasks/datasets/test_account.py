"""The books of a data set: found = used + left out, doubtful reasons refuse unless they are allowed by name."""

from __future__ import annotations

import pytest

from backbones.errors import UserError
from tasks.datasets.account import REASONS, Account, check_allowed, share_left_out, summary


def books() -> Account:
    account = Account()
    account.found("files", 10)
    account.use("files", 6)
    account.leave_out("files", "hidden", "train/.DS_Store")
    for k in range(3):
        account.leave_out("files", "no_label", f"train/{k}.jpg")
    return account


def test_what_was_found_is_used_or_left_out() -> None:
    books().check()
    account = books()
    account.found("files")
    with pytest.raises(AssertionError, match="11 found, 6 used, 4 left out"):
        account.check()


def test_a_doubtful_reason_refuses_and_says_how_to_allow_it() -> None:
    with pytest.raises(UserError) as caught:
        books().settle("DIR/train")
    assert str(caught.value) == (
        "DIR/train: 3 of 10 files without a label: train/0.jpg, train/1.jpg, train/2.jpg: give them one, or leave them out "
        "with --set data.allow=[no_label]"
    )
    books().settle("DIR/train", {"no_label"})


def test_other_reasons_are_only_said() -> None:
    account = Account()
    account.found("files")
    account.leave_out("files", "hidden", ".git")
    account.settle("DIR")
    assert account.notes("train") == ["train: left out 1 of 1 files (hidden, or a tool's own): .git"]


def test_an_account_as_text_and_in_a_record() -> None:
    assert books().lines() == [
        "files  10 found = 6 used + 4 left out",
        "       1 hidden, or a tool's own: train/.DS_Store",
        "       3 without a label [no_label]: train/0.jpg, train/1.jpg, train/2.jpg",
    ]
    assert books().to_json()["files"]["left_out"]["hidden"] == {"count": 1, "examples": ["train/.DS_Store"]}


def test_of_many_examples_the_first_are_kept() -> None:
    account = Account()
    account.found("members", 5)
    for k in range(5):
        account.leave_out("members", "duplicate", k)
    assert account.to_json()["members"]["left_out"]["duplicate"] == {"count": 5, "examples": ["0", "1", "2"]}
    assert account.doubts()[0].startswith("5 of 5 members found twice: 0, 1, 2, …:")


def test_accounts_of_parts_make_one() -> None:
    whole = books()
    whole.add(books())
    whole.check()
    assert whole.kinds["files"].found == 20
    assert whole.kinds["files"].left_out["no_label"].count == 6


def test_something_used_can_be_given_up() -> None:
    account = books()
    account.give_up("files", "unreadable", "train/a/1.jpg")
    account.check()
    assert account.kinds["files"].used == 5


def test_the_share_that_tables_go_by_counts_lost_samples_alone() -> None:
    assert share_left_out({"train": books().to_json(), "val": {}}) == pytest.approx(0.3)
    assert share_left_out({}) == 0.0


def test_only_names_that_stop_something_can_be_allowed() -> None:
    assert check_allowed(["no_label"]) == {"no_label"}
    with pytest.raises(UserError, match=r'unknown reason "no_labels" in data.allow: did you mean "no_label"'):
        check_allowed(["no_labels"])
    assert not REASONS["hidden"].doubtful
    with pytest.raises(UserError, match="unknown reason"):
        check_allowed(["hidden"])


def test_an_account_in_a_line() -> None:
    assert summary({"train": books().to_json()}) == "train 10 files = 6 used + 4 left out (1 hidden, 3 no_label)"

"""Words for how a run is."""

from __future__ import annotations

from typing import Dict, Set

import pytest

from codegen import Status


@pytest.mark.parametrize(
    ("word", "equals"),
    [
        ("COMPLETE", {"COMPLETE", "complete", "completed"}),
        ("ACTIVE", {"ACTIVE", "active", "running"}),
        ("FAILED", {"FAILED", "failed"}),
        ("ERROR", {"ERROR", "error", "failed"}),
        ("OUT_OF_TOKENS", {"OUT_OF_TOKENS", "out_of_tokens", "failed"}),
        ("CANCELLED", {"CANCELLED", "cancelled", "canceled"}),
        ("NEWER", {"NEWER", "newer"}),
    ],
)
def test_a_status_equals_the_apis_word_and_the_documentations(word: str, equals: Set[str]) -> None:
    words = ["COMPLETE", "ACTIVE", "FAILED", "ERROR", "OUT_OF_TOKENS", "CANCELLED", "NEWER", "COMPLETED"]
    words += [one.lower() for one in words] + ["running", "canceled"]
    assert {one for one in words if Status(word) == one and one == Status(word)} == equals
    assert {one for one in words if Status(word) != one} == set(words) - equals
    keys: Dict[str, int] = {Status(word): 1}
    assert keys[word] == 1 and Status(word) != 1


def test_a_status_says_whether_the_run_has_ended() -> None:
    assert [Status(word).done for word in ("ACTIVE", "PAUSED", "COMPLETE", "TIMEOUT", "NEWER")] == [False, False, True, True, True]
    assert Status("COMPLETE").succeeded and not Status("FAILED").succeeded

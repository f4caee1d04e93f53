"""A few tests of each area once more, with the buffer of their engines in Redis. All others are run like that by hand
(`TEST_BUFFER=redis`, see support/tanks.py)."""

from __future__ import annotations

import importlib

ON_REDIS = True

_CHOSEN = {
    "test_engine": [
        "test_the_background_flush_drains_by_age_and_records_its_jobs",
        "test_the_end_of_a_run_flushes_its_thread_at_once_and_no_other",
        "test_closing_drains_the_buffer",
    ],
    "test_telling": [
        "test_lines_are_read_in_order_hot_cold_and_half_flushed",
        "test_another_process_s_events_are_seen",
        "test_alike_errors_are_one_group_and_can_be_resolved_come_back_and_be_deleted",
    ],
    "test_approvals": [
        "test_a_question_is_recorded_when_it_is_asked_and_answered_by_its_id",
        "test_of_two_who_answer_at_once_one_wins",
    ],
    "test_run_worker": [
        "test_a_run_goes_to_its_end_and_its_state_is_the_thread_s",
        "test_it_waits_for_people_and_goes_on_with_their_answer",
    ],
}

for _module, _names in _CHOSEN.items():
    _found = importlib.import_module(_module)
    globals().update({name: getattr(_found, name) for name in _names})


def test_they_are_run_on_redis(tank: object) -> None:
    assert "redis" in repr(vars(tank)["settings"].buffer_name)

"""Each fault that a run must survive, and the tests that prove it.

`tests/scenarios/test_faults.py` checks that every test named here exists. In addition, `virtual_run_mix.py` draws most
of these faults at random, several at a time; `tests/scenarios/test_virtual_runs.py` runs 210 such seeds and
`make torture` 10,000.
"""

from __future__ import annotations

_ALONE = "test_faults.py::test_each_fault_has_its_class_suspension_and_exit_code"
_OVER_SOCKETS = "test_runner.py::test_each_fault_has_its_attempts_status_and_possibly_paid_count"
_NEVER_SENT = "test_faults.py::test_an_unsent_request_is_retried_is_not_paid_and_can_be_resumed"
_HINTS = "test_faults.py::test_the_wait_of_a_429_is_kept_and_uses_no_attempt"
_NTH = "test_damage.py::test_a_failing_nth_disk_call_is_exit_5_and_a_resume_ends_like_an_undisturbed_run"
_POWER = "test_damage.py::test_a_power_cut_before_any_disk_call_loses_no_synced_record"


def _cases(*names: str) -> tuple[str, ...]:
    """Return the tests of rows of `fault_cases.CASES`: alone in virtual time, and together over real sockets."""
    return tuple(f"{test}[{name}]" for name in names for test in (_ALONE, _OVER_SOCKETS))


TESTS_OF: dict[str, tuple[str, ...]] = {
    # The connection.
    "DNS": (_NEVER_SENT, "test_connections.py::test_a_request_to_an_unknown_host_name_is_not_sent"),
    "refused": (_NEVER_SENT, "test_runner.py::test_a_refused_connection_uses_attempts_and_is_not_paid"),
    "connect timeout": (
        _NEVER_SENT,
        "test_connections.py::test_a_request_to_a_server_that_accepts_no_connection_is_not_sent",
    ),
    "TLS failures": (_NEVER_SENT, "test_connections.py::test_a_tls_failure_is_reported_and_nothing_is_sent"),
    "reset before, during and after the request": _cases("reset on arrival", "reset when read", "reset in the body"),
    "billed then dropped": _cases("reset when billed"),
    "keep-alive race": (
        "test_faults.py::test_a_request_on_a_just_closed_connection_is_sent_once_more_and_possibly_paid",
    ),
    "body cut at every byte": (
        "test_faults.py::test_a_body_cut_at_any_byte_is_possibly_paid_and_sent_once_more",
        "test_protocols.py::test_a_body_cut_at_any_byte_is_detected_as_cut",
        *_cases("truncated", "truncated chunks", "truncated without a length"),
    ),
    "one byte a second": ("test_faults.py::test_one_byte_per_second_is_read_to_the_end_within_the_attempt_timeout",),
    "silence": _cases("silence", "silence in the body"),
    # Limits.
    "30 forms of the rate-limit hint": (_HINTS, "test_retry_after.py::test_a_hint_is_a_finite_wait_or_none"),
    "garbage, past, negative": (_HINTS,),
    "year 9999": (_HINTS, *_cases("year 9999")),
    "per-day with a short delay": (_HINTS, *_cases("day quota")),
    "a 429 storm with recovery": (
        "test_faults.py::test_many_429_responses_lose_no_turn_and_the_rate_recovers",
        "test_runner.py::test_429_responses_use_up_no_attempts",
    ),
    "unknown limits": (
        "test_limits_end_to_end.py::test_an_unknown_limit_is_learned_and_every_announced_wait_is_kept",
        "test_limits_end_to_end.py::test_unknown_sub_windows_cost_waits_but_no_turn",
    ),
    # Servers and accounts.
    "5xx at 30 %": ("test_faults.py::test_with_30_percent_of_5xx_no_turn_is_paid_twice",),
    "key revoked in mid-run": (
        "test_runner.py::test_a_key_revoked_during_a_run_suspends_its_target_after_three_probes_and_the_other_finishes",
    ),
    "balance gone in mid-run": ("test_runner.py::test_a_used_up_balance_suspends_its_target_at_once",),
    "model removed in mid-run": (
        "test_faults.py::test_a_model_removed_during_a_run_is_suspended_after_three_probes_and_a_resume_finishes",
    ),
    '"no channel" for two minutes': ("test_runner.py::test_no_channel_for_two_minutes_loses_no_turn",),
    # Replies.
    "200 with an error object": _cases("200 with an error object"),
    "200 with HTML, {}, NaN": _cases("html 200", "empty object 200", "NaN 200"),
    "a million-deep JSON": _cases("million-deep json 200", "deep json 200"),
    "lone surrogates": _cases("lone surrogates"),
    "empty candidates": _cases("no candidates", "empty reply"),
    "blocked prompt": _cases("blocked prompt", "blocked output"),
    "thoughts only": _cases("thoughts only"),
    "usage missing, negative, huge": (
        "test_faults.py::test_an_implausible_token_count_is_unknown_and_never_zero",
        *_cases("usage missing", "usage negative", "usage huge", "usage zero", "usage NaN"),
    ),
    "gzip bomb": ("test_runner.py::test_a_gzip_bomb_is_capped_in_memory", *_cases("gzip bomb")),
    "endless body": ("test_runner.py::test_an_endless_body_is_given_up_at_the_cap",),
    "endless headers": _cases("endless headers"),
    "redirects to another host": ("test_runner.py::test_a_redirect_is_not_followed", *_cases("redirect")),
    # Processes.
    "SIGKILL at 100 random points": (
        "test_damage.py::test_a_hundred_kills_at_random_times_lose_no_reply",
        "test_kills.py::test_a_run_killed_repeatedly_ends_like_an_undisturbed_run",
        "test_kills.py::test_bills_of_a_gateway_killed_with_the_run_are_reported",
    ),
    "SIGKILL at every journal call": (
        "test_damage.py::test_a_kill_before_any_disk_call_loses_no_reply",
        "test_virtual_runs.py::test_a_kill_within_any_write_loses_no_acknowledged_record",
    ),
    "SIGKILL during recovery": ("test_damage.py::test_a_kill_before_any_disk_call_of_a_recovery_loses_no_reply",),
    "two and eight processes on one run": (
        "test_resume.py::test_a_second_process_is_refused_at_once",
        "test_neighbours.py::test_one_of_eight_processes_at_a_folder_runs_and_seven_are_refused",
    ),
    "Ctrl-C once, twice, three times": (
        "test_resume.py::test_the_first_interrupt_finishes_requests_in_flight",
        "test_resume.py::test_the_second_interrupt_abandons_requests_in_flight_as_possibly_paid",
        "test_signals.py::test_the_third_ctrl_c_ends_the_command_at_once",
        "test_signals.py::test_bursts_of_ctrl_c_at_random_times_lose_no_reply",
        "test_signals.py::test_ctrl_c_in_a_terminal_stops_the_run_and_its_progress_bar",
    ),
    "SIGTERM, SIGHUP": (
        "test_signals.py::test_sigterm_ends_the_run_within_25_seconds",
        "test_signals.py::test_closing_the_terminal_interrupts_the_run_cleanly",
    ),
    "closed stdout and stderr": (
        "test_cli.py::test_a_run_succeeds_with_closed_or_full_output_streams",
        "test_cli.py::test_a_run_continues_when_the_reader_of_stderr_exits",
        "test_cli.py::test_output_to_a_full_device_is_an_error_and_not_a_crash",
    ),
    "file-descriptor limit 64": (
        "test_neighbours.py::test_64_open_files_are_sufficient_or_the_error_says_how_many_are_needed",
    ),
    "memory cap 400 MB": ("test_neighbours.py::test_400_mb_of_memory_are_sufficient",),
    "a network that delays, cuts, resets, doubles": (
        "test_chaos.py::test_a_resume_after_network_faults_ends_like_an_undisturbed_run",
        "test_chaos.py::test_a_duplicated_reply_is_never_taken_for_the_next_answer",
    ),
    # Disks.
    "power loss that keeps, drops, reorders or tears unsynced writes": (
        _POWER,
        "test_damage.py::test_repeated_power_cuts_lose_no_synced_record",
        "test_damage.py::test_some_unsynced_data_is_lost_in_power_cuts",
        "test_writer.py::test_a_power_cut_keeps_every_acknowledged_record_and_needs_no_salvage",
    ),
    "torn tail at every byte": (
        "test_damage.py::test_a_journal_torn_at_any_byte_continues_from_there",
        "test_writer.py::test_a_journal_cut_at_any_byte_holds_a_prefix_and_can_be_continued",
    ),
    "bit flips, and --salvage": (
        "test_damage.py::test_a_flipped_bit_is_refused_with_its_position_and_salvage_repeats_only_its_turn",
        "test_writer.py::test_any_flipped_bit_is_found_and_salvage_loses_only_that_line",
    ),
    "a missing interior line, and --salvage": (
        "test_damage.py::test_a_missing_line_is_refused_with_its_position_and_salvage_repeats_only_its_turn",
    ),
    "the n-th write, fsync, open, rename failing with EIO, ENOSPC, EDQUOT, EFBIG": (
        _NTH,
        "test_writer.py::test_a_failing_disk_never_costs_an_acknowledged_record",
        "test_writer.py::test_after_a_failed_sync_every_later_commit_fails",
    ),
    "short writes": ("test_damage.py::test_short_writes_are_continued",),
    "a disk that fills up": (
        "test_damage.py::test_a_disk_that_fills_up_at_any_size_is_exit_5_and_a_resume_finishes_the_run",
        "test_cli.py::test_a_journal_at_the_file_size_limit_is_exit_5_and_a_resume_finishes",
        "test_full_disk.py::test_a_full_disk_stops_the_run_and_a_resume_with_space_ends_like_an_undisturbed_run",
    ),
    "the run folder deleted, moved, shortened": (
        "test_full_disk.py::test_a_run_whose_folder_is_deleted_stops_sending_requests",
        "test_full_disk.py::test_a_run_whose_folder_is_moved_can_be_resumed_there",
        "test_full_disk.py::test_a_truncated_journal_is_not_a_finished_run",
    ),
    # Clocks and users.
    "wall clock jumps": (
        "test_faults.py::test_setting_the_wall_clock_causes_no_burst_and_loses_no_turn",
        "test_faults.py::test_setting_the_clock_between_two_sessions_loses_no_turn",
        "test_limiter.py::test_the_end_of_the_quota_day_follows_jumps_of_the_wall_clock",
    ),
    "a suspended laptop": (
        "test_faults.py::test_a_run_continues_after_a_laptop_sleep_without_a_burst_or_a_lost_turn",
        "test_faults.py::test_a_new_day_begins_when_the_old_one_ends_during_a_sleep",
    ),
    "the dataset edited or deleted between run and resume": (
        "test_cli.py::test_resume_uses_its_copy_when_the_dataset_is_changed_or_removed",
    ),
}


def table() -> list[str]:
    """Return the lines of the table in docs/reliability.md: a fault and its tests, without their cases."""
    lines = ["| fault | tests, under `tests/` |", "|---|---|"]
    for fault, tests in TESTS_OF.items():
        names = dict.fromkeys(test.partition("[")[0].replace(".py::test_", ": ").replace("_", " ") for test in tests)
        lines.append(f"| {fault} | {'; '.join(name.removeprefix('test ') for name in names)} |")
    return lines

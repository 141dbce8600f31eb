"""What docs/data.md promises, and the tests that fail where it is untrue.

heading → how a sentence or a row of a table begins → tests, as ``file::test`` or
``file::Class.test``, where ``file`` stands for ``test_file.py``, and
``folder/file`` for that of one folder, where the name alone is not enough.
"""

from __future__ import annotations

PATH = "format_options::TestColumnsByPath.test_a_path_is_read_as_the_column_is"
SYSTEM = f"format_options::TestSystem.test_column {PATH}"
LABEL = f"""
    format_options::TestLabels.test_column
    chats::TestLabels.test_a_column_that_an_option_names
    chats::TestLabels.test_classes_are_no_labels_and_an_empty_name_reads_none {PATH}"""
PROMPT = f"""format_options::TestCompared.test_prompts
    format_options::TestCompared.test_prompts_that_the_dialogues_hold {PATH}"""
REPLIES = """format_options::TestCompared.test_replies
    format_options::TestCompared.test_prompts_that_the_dialogues_hold"""
WORDINGS = "format_options::TestWordings.test_drawn_by_the_text"
REJECTED = "chats::TestLabels.test_rejected_answers_are_no_demonstrations"
TRAINED = (
    "format_options::TestChats.test_trained chats::TestTrained.test_turns_that_are_context_only"
)
TOOLS = """format_options::test_a_message_that_only_calls_a_tool
    chats::TestTools.test_calls_and_what_comes_back_as_text"""
HELD = "accounts::TestAccounts.test_rows_that_are_held_must_come_to_something"
GIVEN = "data_page::test_every_option_is_documented"
COUNTED = """kinds::test_what_was_counted_is_in_statistics_and_manifest
    kinds::test_what_was_counted_is_shown"""
LOADED = "kinds::test_every_text_in_every_encoding_and_packing dataset_files::test_kind"

PROMISES: dict[str, dict[str, str]] = {
    "Data": {
        "`conversation`": """rows::test_impossible_rows_cannot_be_made data_stages::test_tokenize
            adapters::TestPlainText.test_rows_are_plain""",
        "`preference`": """rows::test_impossible_rows_cannot_be_made data_stages::test_tokenize
            formats::TestTrees.test_preferences_are_ranked_best_first""",
        "`feedback`": """rows::test_impossible_rows_cannot_be_made
            tokenizing::TestFeedback.test_a_reply_after_its_history_with_its_label""",
        "`prompt`": "rows::test_impossible_rows_cannot_be_made data_stages::test_tokenize",
        "One format may serve several": "kinds::test_one_format_serves_all_views",
        "Feedback comes of replies": """
            preferences::TestLabelled.test_what_was_rejected_is_a_prompt_only
            adapters::TestFeedbackOption.test_ranked_replies_give_good_and_bad_ones""",
    },
    "Datasets by name": {
        "What you specify overrides": """registry::TestResolution.test_by_its_own_name
            registry::TestResolution.test_under_another_name_with_other_options
            registry::TestResolution.test_a_copy_on_disk_takes_format_and_options_only""",
        "An id on the hub": "registry::test_name_of_the_inventory_is_found",
        "A misspelt name is an error": """registry::test_misspelt_names_get_suggestions
            config/datasets::test_problems commands/data::test_show_misspelt""",
        "`config/datasets.yaml` is the registry": """commands/data::test_write
            data_page::test_page_is_in_step
            data_page::test_every_dataset_and_format_is_on_the_page""",
        "`<src>` and `<tgt>` are languages": """registry::test_parameters_go_everywhere
            commands/data::test_show_a_name_with_parameters""",
        "Only files of the training split": """
            file_survey::TestSplits.test_files_for_training_only
            split::test_the_held_out_share_is_about_the_fraction
            data_stages::test_no_group_is_in_two_splits_of_any_view""",
    },
    "Files": {
        "`path` is a file, a folder or a glob": """dataset_files::TestFolders.test_glob
            dataset_files::TestFolders.test_all_files_of_known_kinds_by_name
            dataset_files::test_kind""",
        "JSON lines": LOADED,
        "JSON list": f"""{LOADED}
            dataset_files::test_a_list_is_the_same_in_pieces_of_any_size""",
        "JSON object": """dataset_files::test_list_under_a_key
            kinds::test_the_list_of_an_object_in_files_of_any_json""",
        "CSV, TSV": f"""{LOADED} tables::TestTabs.test_what_pandas_writes
            tables::TestFirstLine.test_the_advice_where_the_first_line_is_a_row""",
        "Parquet, Arrow": "dataset_files::test_kind",
        "text": """dataset_files::test_text_file_is_one_document
            kinds::test_a_text_has_a_column_of_this_name""",
        "All except Parquet and Arrow": """kinds::test_every_text_in_every_encoding_and_packing
            unpacking::TestPacked.test_read_whatever_its_name
            unpacking::TestEncodings.test_utf_16_and_32_with_and_without_a_mark""",
        "Archives (zip": "unpacking::TestSomethingElse.test_is_refused_and_named",
        "Files are read piece by piece": """dataset_files::test_large_files_are_not_held_in_memory
            dataset_files::test_large_lists_and_tables_are_not_held_in_memory
            kinds::test_rows_of_parquet_come_before_the_file_is_read_to_where_it_is_broken
            kinds::test_rows_of_arrow_come_before_the_file_is_read_to_where_it_is_cut""",
        "In a folder, all files": """
            dataset_files::TestFolders.test_all_files_of_known_kinds_by_name
            dataset_files::TestFolders.test_chosen_files_in_the_order_of_the_patterns""",
        "Links to files": """file_survey::TestLinks.test_linked_files_and_folders_are_read
            file_survey::TestLinks.test_a_file_that_is_reached_twice_is_read_once""",
        "Not read, but listed": f"""{COUNTED} accounts::TestCheck.test_many_files_are_summed_up
            file_survey::TestWhatIsNotRead.test_each_is_named_with_the_reason""",
        "if names tell training": """file_survey::TestSplits.test_files_for_training_only
            file_survey::TestSplits.test_the_advice_reads_them_all
            file_survey::TestSplits.test_a_glob_means_what_it_says
            file_survey::TestSplits.test_all_are_read_where_nothing_tells_them_apart""",
        "README": """file_survey::TestWhatIsNotRead.test_each_is_named_with_the_reason
            file_survey::TestWhatIsNotRead.test_a_wildcard_does_not_mean_a_readme_and_its_name_does""",
        "`.txt` files": """file_survey::TestWhatIsNotRead.test_each_is_named_with_the_reason
            file_survey::TestWhatIsNotRead.test_texts_are_read_where_nothing_else_is
            file_survey::TestWhatIsNotRead.test_texts_and_other_endings_where_they_are_chosen""",
        "hidden files": """file_survey::TestWhatIsNotRead.test_each_is_named_with_the_reason
            file_survey::TestLinks.test_a_broken_link_is_named""",
        "A folder that `datasets` saved": """dataset_files::TestSavedByDatasets.test_splits
            dataset_files::TestSavedByDatasets.test_dataset
            file_survey::TestSplits.test_saved_splits""",
        "In Parquet and Arrow, only": """
            arrow_records::TestUnread.test_columns_of_every_type_are_counted_and_not_converted
            accounts::TestUnread.test_no_format_reads_more_than_it_says""",
        "An Arrow stream": """
            arrow_records::test_a_stream_that_is_cut_between_batches_is_noticed""",
        "In CSV, the delimiter": """tables::TestDelimiters.test_the_first_line_tells_it
            tables::TestDelimiters.test_the_line_of_excel_tells_it
            tables::TestDelimiters.test_the_advice_where_nobody_can_tell""",
        "A first column without a name": "tables::TestFirstLine.test_the_index_that_pandas_writes",
        "Unnamed columns at the end": """
            layouts::TestTablesOfSpreadsheets.test_columns_and_rows_that_are_empty
            layouts::TestTablesOfSpreadsheets.test_a_column_without_a_name_that_holds_something""",
        "In TSV, quotes": """tables::TestTabs.test_quotes_that_are_letters_join_no_rows
            tables::TestTabs.test_what_pandas_writes
            tables::TestTabs.test_two_letters_that_only_seem_to_belong_together""",
        "In JSON, objects": "json_records::TestObjectsOneAfterAnother.test_are_rows",
        "`NaN` is read": "json_records::TestFaults.test_nan_is_nothing",
        "A row without an id": """chats::TestIds.test_null_and_absent_are_none
            dataset_files::TestFolders.test_ids_tell_files_apart
            json_records::TestObjectsOneAfterAnother.test_rows_of_one_line_have_ids_of_their_own""",
    },
    "Downloads": {
        "Only `fetch_model` and `fetch_data`": """fetching::test_only_the_fetch_stages_download
            fetch_dataset::test_without_a_network_the_message_sends_to_a_login_node""",
        "cuts the connection": """fetch_hub::test_cut_connection_is_resumed
            fetch_hub::test_download_goes_on_where_an_earlier_run_was_cut
            addresses::test_cut_connection_is_resumed_to_the_same_bytes
            addresses::test_a_later_call_goes_on_where_an_earlier_one_was_cut""",
        "is busy": "fetching::test_a_server_that_is_away_is_asked_again_each_time_later",
        "limits the rate": """addresses::test_busy_server_is_asked_again_when_it_says
            fetch_dataset::test_server_that_limits_the_rate_is_asked_again_when_it_says""",
        "sends wrong bytes": """fetch_dataset::test_wrong_bytes_publish_nothing_and_are_not_kept
            addresses::test_wrong_bytes_name_file_expected_and_found_and_are_not_kept""",
        "wants a token": """fetch_dataset::test_refusals fetch_hub::test_gated_repository
            fetch_dataset::test_token_opens_a_dataset""",
        "lacks the repository": "fetch_dataset::test_refusals",
        "Files are compared with the digests": """
            fetch_dataset::test_wrong_bytes_publish_nothing_and_are_not_kept
            addresses::test_a_digest_makes_up_for_a_server_without_tags
            fetching::test_a_digest_in_the_address_is_compared""",
        "Without a digest": """fetching::test_without_a_digest_the_length_alone_is_known
            addresses::test_cut_connection_is_resumed_to_the_same_bytes""",
        "`HF_ENDPOINT` names a mirror": """
            fetching::test_downloads_are_kept_in_hf_home_and_come_from_there_alone
            secrets::test_behind_a_proxy_its_password_is_written_nowhere""",
        "Downloads are kept in `HF_HOME`": """
            fetching::test_downloads_are_kept_in_hf_home_and_come_from_there_alone
            addresses::test_offline_only_what_is_known_is_there""",
        "`HF_TOKEN` is sent": """fetch_dataset::test_token_opens_a_dataset
            addresses::test_refusals_name_the_address_and_say_what_to_do""",
    },
    "Locks": {
        "`rlhf lock` records": """
            locks::test_commits_and_digests_are_written_beside_the_configuration""",
        "The hub knows the digests": """
            locks::test_commits_and_digests_are_written_beside_the_configuration""",
        "What is in the lock": """
            locks::test_the_locked_commit_is_fetched_though_the_branch_has_moved
            locks::test_an_address_is_held_to_its_lock""",
        "Another list of files": """
            locks::test_a_lock_that_does_not_match_refuses_and_says_what_to_type""",
        "What is not in the lock": """
            fetching::test_what_is_not_in_the_lock_is_fetched_as_the_configuration_says""",
        "A changed entry": """slices::test_a_change_of_a_lock_changes_only_the_stage_that_fetches_it
            locked::test_a_changed_entry_runs_its_fetch_again_and_what_is_from_another_file_is_refused""",
        "With several configuration files": """
            locks::test_locks_of_several_files_add_up_as_their_keys_do""",
    },
    "Faults": {
        "The first faulty row": """bad_inputs::test_message
            kinds::test_the_first_faulty_row_is_an_error_that_says_all""",
        "`options.invalid: drop` counts": """
            bad_inputs::test_faulty_rows_can_be_dropped_and_nothing_else
            commands/data::test_check_a_copy""",
        "What the options leave out": """formats::TestTrees.test_lang_keeps_trees_by_their_root
            preferences::TestComparisons.test_ties_are_dropped_and_counted
            adapters::TestOpenAssistant.test_state_of_the_review
            kinds::test_what_was_counted_is_shown""",
        "Both counts": COUNTED,
        "A file that can't be read": """unpacking::TestPacked.test_cut_or_damaged
            unpacking::TestSomethingElse.test_is_refused_and_named
            bad_inputs::test_faulty_rows_can_be_dropped_and_nothing_else
            tables::TestQuotes.test_an_open_one_names_the_line_where_it_opens""",
        "An empty file": """formats::TestFile.test_empty accounts::TestAccounts.test_of_each_file
            kinds::test_what_was_counted_is_shown""",
        "Every row is accounted for": f"""accounts::TestAccounts.test_of_each_file {HELD}
            accounts::TestAccounts.test_every_bad_row_is_counted_in_its_file
            oasst_messages::test_each_message_is_used_or_counted""",
        "A format that neither": """
            accounts::TestAccounts.test_a_format_that_loses_a_row_is_found_out""",
        "`statistics.json` has these numbers": f"""{COUNTED}
            accounts::TestCheck.test_many_files_are_summed_up""",
        "Columns that hold something": f"""
            accounts::TestUnread.test_a_column_that_nobody_knows_is_named
            accounts::TestUnread.test_advice accounts::TestUnread.test_the_advice_reads_the_column
            accounts::TestCheck.test_columns_that_are_not_read {COUNTED}""",
    },
    "Formats": {
        "A column is named by its path": f"""{PATH}
            adapters::TestQuestions.test_paths_templates_and_numbers
            format_options::TestColumnsByPath.test_every_format_and_every_option_that_names_columns_is_here""",
        "A template puts text": """adapters::TestQuestions.test_paths_templates_and_numbers
            format_options::test_prompts_by_template format_options::TestSystem.test_template""",
        "Random choices": f"""{WORDINGS}
            adapters::TestTranslations.test_directions_are_drawn_evenly_and_alike""",
        "Texts are read unchanged": """format_options::TestTextsAsTheyStand.test_whole
            format_options::TestTextsAsTheyStand.test_but_for_space_at_their_ends
            format_options::TestCompared.test_space_at_the_ends_of_replies_goes""",
        "`rlhf data check` and the statistics report": COUNTED,
        "`templated`": "noticing::test_templates noticing::test_each_row_of_a_file_counts_once",
        "`transcript`": "noticing::test_transcripts noticing::test_each_row_of_a_file_counts_once",
        "`messages_as_text`": "noticing::test_messages_in_a_notation",
        "`list_as_text`": "layouts::test_a_list_of_texts_that_is_a_text",
        "`prompt_repeated`": """
            pairs::TestPairsOfTexts.test_replies_that_begin_with_the_prompt_are_noticed""",
        "`invalid`": "bad_inputs::test_faulty_rows_can_be_dropped_and_nothing_else",
        "`field`": "kinds::test_the_list_of_an_object_in_files_of_any_json",
        "`delimiter`": """tables::TestDelimiters.test_the_advice_where_nobody_can_tell
            tables::TestDelimiters.test_the_first_line_tells_it""",
        "`exclude`": """adapters::TestExclude.test_rows_with_a_text_are_left_out
            adapters::TestExclude.test_replies_and_merged_lists_count""",
        "`feedback`": """adapters::TestFeedbackOption.test_ranked_replies_give_good_and_bad_ones
            adapters::TestFeedbackOption.test_what_is_wrong""",
        "`keep`": """keeping::test_columns_are_kept_as_they_stand
            keeping::test_columns_under_names_of_their_own keeping::test_a_row_without_the_column
            keeping::test_wrong_options""",
        "`keep_reply`": """keeping::test_the_own_reply
            keeping::test_a_prompt_without_a_reply""",
    },
    "Chats": {
        "What chat datasets": """chats::TestContent.test_what_nobody_reads_is_named_once_a_row
            accounts::TestUnread.test_a_column_that_nobody_knows_is_named""",
        "a system message": f"""chats::TestSystemColumn.test_is_read_where_it_is_there
            adapters::TestAlpaca.test_what_was_said_before {SYSTEM}""",
        "turns of the assistant": TRAINED,
        "a label of the answer": f"{REJECTED} format_options::TestLabels.test_column",
        "contents in text parts": """chats::TestContent.test_parts_are_put_together_as_they_are
            format_options::TestChats.test_other_parts_than_texts_are_named
            pairs::TestPairsOfDialogues.test_messages_that_are_no_text""",
        "tool calls": TOOLS,
        "their own ids": """chats::TestIds.test_several_files_may_number_their_rows_alike
            format_options::TestChats.test_ids""",
    },
    "alpaca": {
        "`{instruction, input, output}`": """adapters::TestAlpaca.test_what_was_said_before
            bad_inputs::test_the_good_row_is_good""",
        "An input that is": "adapters::TestAlpaca.test_inputs_that_say_nothing_are_left_out",
        "If a label says": REJECTED,
        "`instruction`": f"adapters::TestAlpaca.test_other_names {PATH}",
        "`input`": f"adapters::TestAlpaca.test_other_names {PATH}",
        "`output`": f"adapters::TestAlpaca.test_other_names {PATH}",
        "`system`": SYSTEM,
        "`history`": f"""adapters::TestAlpaca.test_what_was_said_before {PATH}
            adapters::TestAlpaca.test_nothing_was_said_before
            adapters::TestAlpaca.test_history_in_another_column_or_none""",
        "`label`": LABEL,
    },
    "choices": {
        "A context and several endings": """
            preferences::TestMultipleChoice.test_right_before_each_wrong
            preferences::TestMultipleChoice.test_right_before_one_wrong""",
        "Rows without a label": """
            preferences::TestMultipleChoice.test_without_a_label_as_in_test_splits""",
        "Endings that are empty": """
            preferences::TestMultipleChoice.test_endings_that_are_left_out_are_counted""",
        "`prompt`": f"format_options::test_prompts_by_template {PATH}",
        "`choices`": f"preferences::TestMultipleChoice.test_keys {PATH}",
        "`label`": f"""preferences::TestMultipleChoice.test_keys {PATH}
            preferences::TestMultipleChoice.test_labels_as_files_of_other_kinds_have_them""",
        "`keys`": f"preferences::TestMultipleChoice.test_keys {PATH}",
        "`wrong`": """preferences::TestMultipleChoice.test_right_before_one_wrong
            preferences::TestMultipleChoice.test_right_before_each_wrong""",
    },
    "comparison": {
        "Two replies, each": """preferences::TestComparisons.test_labels
            preferences::TestComparisons.test_ties_are_dropped_and_counted""",
        "Replies are texts": f"""{REPLIES}
            format_options::test_of_two_whose_histories_differ_only_the_better_is_learned
            preferences::TestComparedDialogues.test_histories_come_from_the_dialogues""",
        "Rows without a label": "preferences::TestComparisons.test_rows_without_a_label",
        "`prompt`": f"{PROMPT} format_options::test_prompts_by_template",
        "`replies`": f"preferences::TestComparisons.test_article_where_there_is_no_post {PATH}",
        "`scores`": """
            preferences::TestComparisons.test_the_higher_score_is_better_whether_number_or_text""",
        "`choice`": f"preferences::TestComparisons.test_labels {PATH}",
        "`wins`": """preferences::TestComparisons.test_labels
            preferences::TestComparisons.test_labels_that_say_how_much""",
        "`ties`": """preferences::TestComparisons.test_labels_that_say_tie
            preferences::TestComparisons.test_other_labels_that_prefer_neither""",
        "`prompts`": WORDINGS,
        "`merge`": f"""preferences::TestMerged.test_by_the_best_score_that_a_reply_has
            preferences::TestMerged.test_by_the_number_of_wins {HELD}
            preferences::TestComparisons.test_merged_by_score
            preferences::TestComparisons.test_merged_by_wins""",
        "`remove`": """preferences::TestComparisons.test_references_are_taken_out
            preferences::TestComparedDialogues.test_what_is_removed_is_removed_from_messages_too""",
        "`system`": SYSTEM,
    },
    "dialogue": {
        "A list of texts": """format_options::test_a_column_before_the_first_text
            adapters::TestDialogues.test_objects_with_both_texts_or_one""",
        "`turns`": PATH,
        "`keys`": "adapters::TestDialogues.test_objects_with_both_texts_or_one",
        "`speakers`": f"adapters::TestDialogues.test_other_than_two_in_turn_are_left_out {PATH}",
        "`prefix`": """format_options::test_a_column_before_the_first_text
            adapters::TestDialogues.test_a_narrative_goes_before_the_first_text""",
        "`system`": f"{SYSTEM} format_options::TestSystem.test_template",
        "If a label": "layouts::TestDialoguesOfTwoSpeakers.test_a_label",
        "`label`": f"layouts::TestDialoguesOfTwoSpeakers.test_a_label {LABEL}",
    },
    "hh": {
        "Pairs of dialogues": "adapters::TestHumanAssistant.test_views",
        "A turn begins": "adapters::TestHumanAssistant.test_paragraphs_of_turns_stay_whole",
        "Pairs whose dialogues diverge": """
            adapters::TestHumanAssistant.test_dialogues_that_part_earlier_are_not_compared""",
        "`chosen`": PATH,
        "`rejected`": PATH,
        "`speakers`": "pairs::TestPairsOfTexts.test_without_a_prompt",
        "`system`": f"{SYSTEM} layouts::TestDialoguesOfTwoSpeakers.test_a_system_message",
    },
    "labelled": {
        "`{prompt, completion, label}`": "preferences::TestLabelled.test_layouts_of_other_makers",
        "Every reply is feedback": """
            preferences::TestLabelled.test_what_was_rejected_is_a_prompt_only
            preferences::TestLabelled.test_paired_replies_are_feedback_too""",
        "One that was accepted": """
            preferences::TestLabelled.test_what_was_rejected_is_a_prompt_only""",
        "Replies are texts": REPLIES,
        "`prompt`": f"{PROMPT} format_options::test_prompts_by_template",
        "`completion`": f"{PATH} preferences::TestLabelled.test_layouts_of_other_makers",
        "`label`": f"""preferences::TestLabelled.test_labels_as_files_of_other_kinds_have_them
            preferences::TestLabelled.test_labels_that_say_neither {PATH}""",
        "`pairs`": """preferences::TestLabelled.test_pairs_of_what_one_prompt_has_of_both
            promised::test_what_is_held_to_the_end""",
        "`speakers`": "format_options::TestTranscripts.test_speakers",
        "`inline`": "format_options::TestTranscripts.test_inline",
        "`system`": SYSTEM,
    },
    "messages": {
        "Each row is a dialogue": "formats::TestMessages.test_views",
        "`id` is the row's own": """
            formats::TestMessages.test_views format_options::TestChats.test_ids
            chats::TestIds.test_several_files_may_number_their_rows_alike""",
        "The content of a message": """chats::TestContent.test_parts_are_put_together_as_they_are
            format_options::TestChats.test_other_parts_than_texts_are_named""",
        "If no reply is trained": f"{TRAINED} {REJECTED}",
        "`column`": f"adapters::TestMessages.test_other_names_and_a_system_column {PATH}",
        "`role`": "adapters::TestMessages.test_other_names_and_a_system_column",
        "`content`": "adapters::TestMessages.test_other_names_and_a_system_column",
        "`system`": SYSTEM,
        "`merge`": "format_options::test_messages_of_one_role_in_a_row",
        "`roles`": """format_options::TestChats.test_roles
            chats::TestRoles.test_more_roles_beside_the_known_ones""",
        "`tool_calls`": TOOLS,
        "`trained`": TRAINED,
        "`label`": LABEL,
        "`ids`": "format_options::TestChats.test_ids chats::TestIds.test_ignored",
    },
    "oasst": {
        "Trees of a prompt": """adapters::TestOpenAssistant.test_messages_one_by_one_are_the_tree
            formats::TestTrees.test_preferences_are_ranked_best_first""",
        "Deleted messages": """
            formats::TestTrees.test_deleted_and_rejected_messages_go_with_all_below_them
            formats::TestTrees.test_unfinished_trees_are_left_out_and_waiting_prompts_kept""",
        "Single messages": """
            oasst_messages::TestReplies.test_messages_that_hold_their_replies_are_trees
            oasst_messages::TestReplies.test_replies_in_a_message_and_in_rows
            promised::test_what_is_held_to_the_end""",
        "Each message is either": "oasst_messages::test_each_message_is_used_or_counted",
        "`top_k`": """
            formats::TestTrees.test_top_k_follows_the_best_replies_and_keeps_all_ranks_in_preferences
            formats::TestTrees.test_lone_reply_without_rank_counts_as_the_best
            oasst_messages::test_each_message_is_used_or_counted""",
        "`lang`": "formats::TestTrees.test_lang_keeps_trees_by_their_root",
        "`min_quality`": "adapters::TestOpenAssistant.test_minimum_of_quality",
        "`review`": "adapters::TestOpenAssistant.test_state_of_the_review",
        "`synthetic`": "adapters::TestOpenAssistant.test_what_models_wrote",
        "`states`": """adapters::TestOpenAssistant.test_states_of_trees
            formats::TestTrees.test_unfinished_trees_are_left_out_and_waiting_prompts_kept""",
    },
    "preference": {
        "`{prompt, chosen, rejected}`": f"""pairs::TestPairs.test_prompts {GIVEN}
            registry::test_dataset""",
        "Replies are texts": f"""{REPLIES}
            pairs::TestPairsOfDialogues.test_replies_alone_follow_the_prompt
            pairs::TestPairsOfDialogues.test_history_comes_from_the_lists_whatever_the_prompt_repeats_of_it""",
        "Pairs whose histories diverge": """
            pairs::TestPairsOfDialogues.test_dialogues_that_part_earlier_are_not_compared""",
        "`prompt`": f"{PROMPT} pairs::TestPairs.test_prompts",
        "`chosen`": PATH,
        "`rejected`": f"{PATH} pairs::TestPairsOfTexts.test_no_column_for_the_worse_reply",
        "`speakers`": "format_options::TestTranscripts.test_speakers",
        "`inline`": """format_options::TestTranscripts.test_inline
            pairs::TestPairsOfTexts.test_turns_on_one_line_are_cut_on_request_only""",
        "`system`": SYSTEM,
        "`scores`": f"own_scores::test_formats_keep_scores {PATH}",
        "`margin`": "own_scores::test_formats_keep_scores",
    },
    "qa": {
        "Each row is a question": "adapters::TestQuestions.test_markup_and_space_are_kept",
        "A column is named": "adapters::TestQuestions.test_paths_templates_and_numbers",
        "If a label says": REJECTED,
        "`question`": f"adapters::TestQuestions.test_paths_templates_and_numbers {PATH}",
        "`answer`": f"""adapters::TestQuestions.test_paths_templates_and_numbers
            layouts::test_prompts_without_answers {PATH}""",
        "`system`": f"""{SYSTEM} format_options::TestSystem.test_template
            adapters::TestQuestions.test_system_message_where_there_is_one""",
        "`no_answer`": """adapters::TestQuestions.test_no_answer
            adapters::TestQuestions.test_what_options_change_is_counted""",
        "`each`": f"adapters::TestQuestions.test_each_element_is_a_row {PATH}",
        "`prompts`": WORDINGS,
        "`max_words`": """adapters::TestQuestions.test_what_options_change_is_counted
            promised::test_words_are_what_spaces_divide""",
        "`remove`": "format_options::TestQuestions.test_what_is_removed_is_removed_from_all_texts",
        "`join`": """format_options::TestQuestions.test_lists_are_joined_on_request
            format_options::TestQuestions.test_no_part_of_a_list_is_lost""",
        "`label`": LABEL,
    },
    "ranked": {
        "A prompt and a list": """preferences::TestRanked.test_in_the_order_of_the_list
            preferences::TestRanked.test_by_rank_and_by_score_with_ties_dropped""",
        "Replies are texts": f"""{REPLIES}
            preferences::TestRanked.test_dialogues_that_part_from_the_best_are_left_out""",
        "Of replies with the same rank": """
            preferences::TestRanked.test_by_rank_and_by_score_with_ties_dropped""",
        "`prompt`": PROMPT,
        "`replies`": PATH,
        "`text`": "preferences::TestRanked.test_objects_that_hold_dialogues",
        "`rank`": "preferences::TestRanked.test_by_rank_and_by_score_with_ties_dropped",
        "`score`": "preferences::TestRanked.test_by_rank_and_by_score_with_ties_dropped",
        "`worst`": """preferences::TestRanked.test_worse_replies_come_last_and_none_is_needed
            preferences::TestRanked.test_worse_replies_by_path""",
        "`system`": SYSTEM,
    },
    "scored": {
        "`{prompt, response, score}`": "bad_inputs::test_the_good_row_is_good",
        "All replies to one prompt": """
            preferences::TestScored.test_replies_of_one_prompt_in_the_order_of_their_scores""",
        "Of replies with the same rating": """
            preferences::TestScored.test_sums_that_are_equal_on_paper_are_ties
            preferences::TestScored.test_a_reply_that_occurs_twice_counts_by_its_best_score""",
        "The whole dataset": "promised::test_what_is_held_to_the_end",
        "Replies are texts": REPLIES,
        "Rows keep the ratings": "own_scores::test_formats_keep_scores",
        "`prompt`": f"{PROMPT} format_options::test_prompts_by_template",
        "`reply`": f"{PATH} preferences::TestScored.test_dialogues",
        "`scores`": f"preferences::TestScored.test_weights {PATH}",
        "`min_score`": "preferences::TestScored.test_poor_replies_are_no_demonstrations",
        "`system`": SYSTEM,
    },
    "sharegpt": {
        '`{"conversations"': "adapters::TestMessages.test_sharegpt_joins_what_one_says_in_a_row",
        "Messages of `role`": "chats::TestContent.test_sharegpt_under_other_keys",
        "Ids, labels": f"format_options::TestChats.test_ids {TRAINED} {REJECTED}",
        "`column`": PATH,
        "`system`": SYSTEM,
        "`roles`": """
            format_options::TestChats.test_roles
            chats::TestRoles.test_more_roles_in_sharegpt""",
        "`tool_calls`": f"{TOOLS} chats::TestTools.test_roles_that_call_in_sharegpt",
        "`trained`": TRAINED,
        "`label`": LABEL,
        "`ids`": "format_options::TestChats.test_ids",
    },
    "summary": {
        "A text and its summary": "format_options::TestWordings.test_of_summaries_by_default",
        "`text`": f"adapters::TestQuestions.test_sentences_are_joined {PATH}",
        "`summary`": f"adapters::TestQuestions.test_sentences_are_joined {PATH}",
        "`prompts`": f"format_options::TestWordings.test_of_summaries_by_default {WORDINGS}",
        "`max_words`": """
            format_options::TestQuestions.test_summaries_are_cut_after_512_words_as_spaces_divide_them
            promised::test_words_are_what_spaces_divide""",
        "`system`": f"{SYSTEM} format_options::TestSystem.test_template",
        "`label`": LABEL,
    },
    "text": {
        "Texts that are cut": """adapters::TestPlainText.test_pieces_share_a_group
            encoding::test_plain_text_is_trained_whole_and_without_a_template""",
        "`text`": f"kinds::test_a_text_has_a_column_of_this_name {PATH}",
        "`max_characters`": """adapters::TestPlainText.test_cuts
            adapters::TestPlainText.test_nothing_is_lost""",
    },
    "transcript": {
        "Dialogues in one column": """
            adapters::TestTranscripts.test_speakers_inside_of_lines_and_a_column_for_the_reply
            adapters::TestTranscripts.test_names_in_brackets""",
        "`text`": PATH,
        "`reply`": f"{PATH} adapters::TestTranscripts.test_a_reply_in_a_column_is_not_cut",
        "`speakers`": "adapters::TestTranscripts.test_names_in_brackets",
        "`inline`": """adapters::TestTranscripts.test_turns_that_one_speaker_has_in_a_row
            adapters::TestTranscripts.test_speakers_inside_of_lines_and_a_column_for_the_reply""",
        "`system`": f"{SYSTEM} layouts::TestDialoguesOfTwoSpeakers.test_a_system_message",
        "If a label": "layouts::TestDialoguesOfTwoSpeakers.test_a_label",
        "`label`": f"layouts::TestDialoguesOfTwoSpeakers.test_a_label {LABEL}",
    },
    "translation": {
        "Each row is one text": "adapters::TestTranslations.test_direction",
        "`pair`": """
            adapters::TestTranslations.test_direction
            formats::TestOptions.test_wrong_option_names_its_key""",
        "`column`": """format_options::TestTranslations.test_source_and_target_name_columns
            promised::test_translations_in_another_column""",
        "`source`": f"format_options::TestTranslations.test_one_of_them_names_a_column {PATH}",
        "`target`": f"format_options::TestTranslations.test_one_of_them_names_a_column {PATH}",
        "`target_column`": f"""
            adapters::TestTranslations.test_the_language_stands_in_a_column {PATH}
            format_options::TestTranslations.test_languages_by_their_codes""",
        "`codes`": "adapters::TestTranslations.test_the_language_stands_in_a_column",
        "`direction`": """adapters::TestTranslations.test_direction
            adapters::TestTranslations.test_both_directions
            adapters::TestTranslations.test_directions_are_drawn_evenly_and_alike
            adapters::TestTranslations.test_a_language_without_requests_is_translated_from""",
        "`prompts`": """
            adapters::TestTranslations.test_a_language_without_requests_is_translated_from""",
    },
    "": {
        "To add a format": "formats::TestOptions.test_a_format_is_a_small_class",
    },
}

# What promises nothing, and why.
NOTHING: dict[str, dict[str, str]] = {
    "Data": {"A dataset is a set": "leads to a table"},
    "Datasets by name": {"The licences are": "advice, and words of others"},
    "Locks": {"A branch moves": "says why", "Commit it with": "advice"},
    "Formats": {"Every format also has": "leads to a table"},
}

"""CSV and TSV: delimiters, quotes, ends of lines, first lines."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest

from rlhf.data.formats.source import Source, load
from rlhf.errors import ConfigError, DataError

ROWS = [("What colour are figs?", "Mixed"), ('He said "hi"; then, a\ttab|', "two\nlines\r\nand\rx")]


def read(path, content, **options):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = load("qa", path, options).conversations
    return [tuple(one.content for one in row.messages) for row in rows]


def written(delimiter, rows=ROWS, **options):
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter, **options)
    writer.writerows([("question", "answer"), *rows])
    return sink.getvalue()


class TestDelimiters:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
    def test_the_first_line_tells_it(self, tmp_path, delimiter, name):
        assert read(tmp_path / name, written(delimiter)) == ROWS

    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "^"])
    def test_the_line_of_excel_tells_it(self, tmp_path, delimiter):
        text = f"sep={delimiter}\r\n" + written(delimiter)
        assert read(tmp_path / "rows.csv", "\ufeff" + text) == ROWS

    def test_the_line_of_excel_counts_as_a_line(self, tmp_path):
        with pytest.raises(DataError, match=r"rows.csv:3, column answer"):
            read(tmp_path / "rows.csv", "sep=;\nquestion;answer\na;\n")

    def test_the_advice_where_nobody_can_tell(self, tmp_path):
        text = "question|more;answer\nWhy?|m;So.\n"
        with pytest.raises(DataError, match="what stands between") as error:
            read(tmp_path / "rows.csv", text)
        assert "`options.delimiter: ';'`" in str(error.value)
        options = {"delimiter": ";", "question": "question|more"}
        assert read(tmp_path / "rows.csv", text, **options) == [("Why?|m", "So.")]

    def test_one_column_is_one_column(self, tmp_path):
        (tmp_path / "rows.csv").write_text("text\nOnly this; or that\n")
        rows = load("text", tmp_path / "rows.csv").conversations
        assert rows[0].messages[0].content == "Only this; or that"

    def test_lines_in_quotes_of_their_own(self, tmp_path):
        """Whoever follows the advice must not train rows on themselves."""
        with pytest.raises(DataError) as error:
            read(tmp_path / "rows.csv", '"question;answer"\n"Why?;So."\n')
        assert "columns were not told apart" in str(error.value)
        assert "options.question" not in str(error.value)

    @pytest.mark.parametrize("wrong", ["", ";;", '"', "\n", 3])
    def test_wrong(self, tmp_path, wrong):
        with pytest.raises(ConfigError, match=r"options\.delimiter"):
            Source("qa", tmp_path, {"delimiter": wrong})


class TestTabs:
    def test_quotes_that_are_letters_join_no_rows(self, tmp_path):
        text = 'question\tanswer\n"Why\tSo.\nsaid "x" he\t"So" it\n"a" b\t"c" "d"\nlast\t"end"\n'
        path = tmp_path / "rows.tsv"
        assert read(path, text) == [
            ('"Why', "So."), ('said "x" he', '"So" it'), ('"a" b', '"c" "d"'), ("last", "end")
        ]  # fmt: skip
        source = Source("qa", path)
        list(source)
        assert source.faults.noticed == {"quote_as_letter": 1}
        assert source.files["rows.tsv"].as_dict() == {"rows": 4, "used": 4}

    def test_two_letters_that_only_seem_to_belong_together(self, tmp_path):
        text = 'question\tanswer\n"Why\tSo"\nx\ty\n'
        assert read(tmp_path / "rows.tsv", text) == [('"Why', 'So"'), ("x", "y")]

    def test_what_pandas_writes(self, tmp_path):
        frame = pd.DataFrame(ROWS * 3, columns=["question", "answer"])
        path = tmp_path / "rows.tsv"
        frame.to_csv(path, sep="\t", index=False)
        assert read(path, path.read_bytes()) == ROWS * 3

    def test_a_quote_as_the_last_letter_of_the_file(self, tmp_path):
        assert read(tmp_path / "rows.tsv", 'question\tanswer\na\t"b') == [("a", '"b')]

    def test_rows_that_quotes_may_join_in_one_column_are_noticed(self, tmp_path):
        (tmp_path / "rows.tsv").write_text('text\n"one\ntwo"\nthree\n')
        source = Source("text", tmp_path / "rows.tsv")
        assert [row.messages[0].content for row in source] == ["one\ntwo", "three"]
        assert source.faults.noticed["quotes_join_lines"] == 1

    def test_lines_after_a_row_of_several_keep_their_numbers(self, tmp_path):
        with pytest.raises(DataError, match=r"rows.tsv:5, column answer"):
            read(tmp_path / "rows.tsv", 'question\tanswer\na\t"b\n\nc"\nd\t\n')

    def test_rows_of_too_few_columns_are_not_joined_by_their_quotes(self, tmp_path):
        path = tmp_path / "rows.tsv"
        path.write_text('question\tanswer\n"a\n"b\n"c\n"d\te\n')
        source = Source("qa", path, {"invalid": "drop"})
        assert [row.messages[0].content for row in source if hasattr(row, "messages")] == ['"d']
        assert source.faults.dropped == {"csv_columns": 3}
        assert source.faults.noticed == {"quote_as_letter": 4}

    def test_too_few_columns(self, tmp_path):
        path = tmp_path / "rows.tsv"
        path.write_text('question\tanswer\n"a\nb\tc\n')
        source = Source("qa", path, {"invalid": "drop"})
        assert [row.id for row in source] == ["3", "3/1"]
        assert source.faults.dropped == {"csv_columns": 1}
        assert source.files["rows.tsv"].as_dict() == {
            "rows": 2, "used": 1, "left_out": {"csv_columns": 1}
        }  # fmt: skip


class TestQuotes:
    @pytest.mark.parametrize("invalid", ["error", "drop"])
    def test_an_open_one_names_the_line_where_it_opens(self, tmp_path, invalid):
        text = 'question,answer\na,b\n"c\nd","e ""x"" \nf,g\n' + "h,i\n" * 50
        with pytest.raises(DataError) as error:
            read(tmp_path / "rows.csv", text, invalid=invalid)
        assert "does not end" in str(error.value)
        assert "rows.csv:4" in str(error.value)
        mended = text.replace('""x"" \n', '""x"" "\n')
        assert len(read(tmp_path / "rows.csv", mended)) == 53

    def test_one_that_a_later_row_closes(self, tmp_path):
        with pytest.raises(DataError, match="not CSV") as error:
            read(tmp_path / "rows.csv", 'question,answer\n"a,b\nc,d\n"e",f\n')
        assert "rows.csv:2" in str(error.value)


class TestEndsOfLines:
    @pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
    @pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
    def test_one_kind(self, tmp_path, end, name):
        text = end.join(["question,answer", 'Why?,"So, so."', "And?,No.", ""])
        text = text if name == "rows.csv" else text.replace(",", "\t", 1).replace("?,", "?\t")
        assert read(tmp_path / name, text) == [("Why?", "So, so."), ("And?", "No.")]

    def test_lone_cr_in_a_long_file(self, tmp_path):
        rows = [(f"q{i}", "a" * 50) for i in range(5000)]
        text = "\r".join(["question,answer", *(f"{q},{a}" for q, a in rows)])
        assert read(tmp_path / "rows.csv", text) == rows
        lines = "\r".join(f'{{"question": "{q}", "answer": "{a}"}}' for q, a in rows)
        assert read(tmp_path / "rows.jsonl", lines) == rows

    def test_mixed(self, tmp_path):
        with pytest.raises(DataError, match="end with CR, others with LF"):
            read(tmp_path / "rows.csv", "question,answer\na,b\rc,d\n")


class TestFirstLine:
    def test_the_index_that_pandas_writes(self, tmp_path):
        path = tmp_path / "rows.csv"
        pd.DataFrame(ROWS, columns=["question", "answer"]).to_csv(path)
        assert read(path, path.read_bytes()) == ROWS
        assert read(path, path.read_bytes(), question="Unnamed: 0")[1][0] == "1"

    def test_the_advice_for_two_columns_of_one_name(self, tmp_path):
        with pytest.raises(DataError) as error:
            read(tmp_path / "rows.csv", "question,answer,answer\na,b,c\n")
        assert "give column 2 one of its own; if it is a row, put a line" in str(error.value)
        assert read(tmp_path / "rows.csv", "question,x,answer\na,b,c\n") == [("a", "c")]

    def test_the_advice_where_the_first_line_is_a_row(self, tmp_path):
        path = tmp_path / "rows.csv"
        with pytest.raises(DataError) as error:
            read(path, "What?,This\nWhy?,So\n")
        assert "if the first line is a row, put a line with the columns' names" in str(error.value)
        added = "question,answer\nWhat?,This\nWhy?,So\n"
        assert read(path, added) == [("What?", "This"), ("Why?", "So")]

    def test_blank_lines_before_it(self, tmp_path):
        with pytest.raises(DataError, match=r"rows.csv:4, column answer"):
            read(tmp_path / "rows.csv", "\n\nquestion;answer\na;\n")

    def test_the_advice_for_a_comma_too_many(self, tmp_path):
        path = tmp_path / "rows.csv"
        with pytest.raises(DataError, match="put a text that holds a comma in quotes"):
            read(path, "question,answer\na,b,c\n")
        assert read(path, 'question,answer\na,"b,c"\n') == [("a", "b,c")]

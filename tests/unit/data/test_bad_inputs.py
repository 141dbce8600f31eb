"""The corpus of bad inputs: each says where, what is there, what was expected, and what to do."""

from __future__ import annotations

import pytest
from support.bad_inputs import BAD, GOOD

from rlhf.data.formats.source import FORMATS, Source
from rlhf.errors import ConfigError, DataError


@pytest.fixture
def read(write_lines, tmp_path):
    """Reads a bad input with more options; returns the source and its rows."""

    def read(bad, **more):
        if bad.rows is None:
            path = tmp_path / bad.file
            path.write_bytes(bad.content)
        else:
            path = write_lines(*bad.rows, name=bad.file)
        source = Source(bad.format, path, {**bad.options, **more}, dataset="mine")
        return source, list(source)

    return read


@pytest.mark.parametrize("name", BAD)
def test_message(read, name):
    bad = BAD[name]
    with pytest.raises((DataError, ConfigError)) as error:
        read(bad)
    for word in bad.words:
        assert word in str(error.value)
    assert error.value.expected
    assert error.value.hint or isinstance(error.value, ConfigError)
    if bad.reason is not None:
        assert "datasets.mine: " in str(error.value.where)


@pytest.mark.parametrize("name", BAD)
def test_faulty_rows_can_be_dropped_and_nothing_else(read, name):
    bad = BAD[name]
    if bad.reason is None:
        more = {} if "invalid" in bad.options else {"invalid": "drop"}
        with pytest.raises((DataError, ConfigError)):
            read(bad, **more)
    else:
        source, _ = read(bad, invalid="drop")
        assert source.faults.dropped[bad.reason] == 1


@pytest.mark.parametrize("format", FORMATS)
def test_the_good_row_is_good(write_lines, format):
    options, row = GOOD[format]
    assert list(Source(format, write_lines(row), options))


def test_the_corpus_is_large_and_knows_every_format():
    assert len(BAD) >= 150
    assert {bad.format for bad in BAD.values()} >= set(FORMATS)

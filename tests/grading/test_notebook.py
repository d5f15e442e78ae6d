"""A notebook as data: what is read, what is skipped, and the sentence on what is refused."""

import json

import pytest

from course_lib.grading import notebook
from course_lib.grading.notebook import NotANotebook, read_notebook
from course_lib.paths import NOTEBOOKS


def code(source, **fields):
    """Return a code cell."""
    return {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], **fields}


def four(*cells, **fields):
    """Return the bytes of a notebook of format 4."""
    return json.dumps(
        {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **fields}
    ).encode()


def three(*sheets, **fields):
    """Return the bytes of a notebook of format 3 with these worksheets, each a list of cells."""
    worksheets = [{"cells": cells} for cells in sheets]
    return json.dumps({"worksheets": worksheets, "metadata": {}, "nbformat": 3, **fields}).encode()


TEXT = {"cell_type": "markdown", "source": "# A title"}


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_of_the_course_is_read_cell_by_cell(path):
    sources = read_notebook(path.read_bytes())
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert [source is None for source in sources] == [cell["cell_type"] != "code" for cell in cells]
    assert any("@exercise(" in source for source in sources if source)


def test_a_source_is_a_text_or_a_list_of_lines():
    assert read_notebook(
        four(code("a = 1\nb = 2"), TEXT, code(["a = 1\n", "b = 2"]), code([]), code(""))
    ) == [
        "a = 1\nb = 2",
        None,
        "a = 1\nb = 2",
        "",
        "",
    ]


def test_format_3_keeps_its_code_in_the_input_of_its_worksheets():
    old = {"cell_type": "code", "input": ["x = 1\n", "y = 2"], "language": "python", "outputs": []}
    heading = {"cell_type": "heading", "level": 1, "source": "A title"}
    assert read_notebook(three([heading, old], [old | {"input": "z = 3"}])) == [
        None,
        "x = 1\ny = 2",
        "z = 3",
    ]


@pytest.mark.parametrize("number", [None, "4", 4.0, 4.2, [], 10**400])
def test_a_strange_format_number_does_not_hide_the_cells(number):
    assert read_notebook(four(code("x"), nbformat=number)) == ["x"]


def test_missing_fields_do_not_hide_the_cells():
    assert read_notebook(b'{"cells": [{"cell_type": "code", "source": "x"}]}') == ["x"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_self_describing_encodings_are_read(encoding):
    text = json.dumps({"cells": [code("# é \U0001f600")], "nbformat": 4}, ensure_ascii=False)
    assert read_notebook(text.encode(encoding)) == ["# é \U0001f600"]


@pytest.mark.parametrize(
    "cell",
    [
        None,
        3,
        "x",
        [],
        {},
        {"cell_type": "code"},
        {"source": "x"},
        {"cell_type": ["code"], "source": "x"},
    ]
    + [code(source) for source in (None, 3, {"a": 1}, ["x", 3], [["x"]], ["x", None], True)],
)
def test_a_malformed_cell_costs_only_itself(cell):
    assert read_notebook(four(code("a"), cell, code("b"))) == ["a", None, "b"]
    assert read_notebook(three([code("a"), cell], [code("b")])) == ["a", None, "b"]


@pytest.mark.parametrize("sheet", [None, 3, [], {}, {"cells": None}, {"cells": {"0": code("x")}}])
def test_a_malformed_worksheet_costs_only_itself(sheet):
    data = json.dumps({"worksheets": [sheet, {"cells": [code("a")]}], "nbformat": 3})
    assert read_notebook(data.encode()) == ["a"]


@pytest.mark.parametrize(
    ("written", "read"), [("\\ud800", "\ufffd"), ("\\udc00\\ud800", "\ufffd\ufffd")]
)
def test_lone_surrogates_are_replaced(written, read):
    (source,) = read_notebook(
        b'{"cells": [{"cell_type": "code", "source": "s = \'%s\'"}]}' % written.encode()
    )
    assert source == f"s = '{read}'" and source.encode("utf-8")


def test_a_pair_of_surrogates_is_its_character():
    assert read_notebook(b'{"cells": [{"cell_type": "code", "source": "\\ud83d\\ude00"}]}') == [
        "\U0001f600"
    ]


def test_a_nul_is_replaced_because_no_code_can_hold_one():
    assert read_notebook(four(code("a\0b"))) == ["a\ufffdb"]


def test_of_repeated_keys_the_last_one_counts():
    cells = '[{"cell_type": "markdown", "cell_type": "code", "source": "a", "source": "b"}]'
    assert read_notebook(f'{{"cells": [], "cells": {cells}}}'.encode()) == ["b"]


@pytest.mark.parametrize(
    "value", ["NaN", "-Infinity", "1e999999999", "9" * 5000, "-" + "9" * 5000, "1" * 10**6]
)
def test_numbers_out_of_range_do_no_harm(value):
    cells = f'[{{"cell_type": "code", "source": "x", "execution_count": {value}}}]'
    assert read_notebook(f'{{"nbformat": {value}, "cells": {cells}}}'.encode()) == ["x"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'{\n "cells": [\n  1,,\n', "is not JSON: line 3, column 5 (Expecting value)"),
        (four(code("x = 1"))[:40], "is not JSON: line 1, column 34 (Unterminated string)"),
        (b"<!DOCTYPE html><html>", "is not JSON: line 1, column 1 (Expecting value)"),
        (b'{"cells": ["\xe9"]}', "is not text in UTF-8: byte 13 does not belong"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "is not text in UTF-8: byte 1 does not belong"),
        (b'{"cells": ["\0"]}', "is not JSON: line 1, column 13 (Invalid control character)"),
        (b"PK\3\4" + bytes(30), "is not JSON: line 1, column 1 (Expecting value)"),
        (b"[]", "is not a notebook: expected a JSON object, got list"),
        (b"NaN", "is not a notebook: expected a JSON object, got float"),
        (b"{}", "has no list of cells"),
        (b'{"cells": {"0": 1}, "worksheets": 3}', "has no list of cells"),
        (three([code("x")], nbformat=2), "is a notebook of format 2; formats 3 and 4 are read"),
        (four(code("x"), nbformat=5), "is a notebook of format 5; formats 3 and 4 are read"),
        (
            b'{"cells": ' + b"[" * 101 + b"]" * 101 + b"}",
            "is nested more than 100 deep, the most that is read",
        ),
        (b"[" * 10**6, "is nested more than 100 deep, the most that is read"),
        (b'{"a":' * 10**5, "is nested more than 100 deep, the most that is read"),
        (four(*[TEXT] * 5001), "has 5,001 cells; at most 5,000 are read"),
        (
            four(code("é" * 500_000), code("x")),
            "holds 1,000,001 bytes of code; at most 1,000,000 are read",
        ),
        (
            b"[" + b"[]," * 500_000 + b"0]",
            (
                "holds more than 1,000,000 commas and brackets, the most that are read; clear its"
                " outputs"
            ),
        ),
    ],
)
def test_what_is_not_a_notebook_is_refused_with_a_sentence(data, said):
    with pytest.raises(NotANotebook) as caught:
        read_notebook(data)
    assert str(caught.value) == said


def test_the_limits_themselves_are_allowed():
    assert len(read_notebook(four(*[TEXT] * notebook.MAX_CELLS))) == notebook.MAX_CELLS
    assert read_notebook(four(code("x" * notebook.MAX_CODE_BYTES))) == [
        "x" * notebook.MAX_CODE_BYTES
    ]
    deep = b"[" * 98 + b"]" * 98
    assert read_notebook(b'{"cells": [%s, {"cell_type": "code", "source": "x"}]}' % deep) == [
        None,
        "x",
    ]
    assert read_notebook(four(code("x", outputs=["," * 900_000]))) == ["x"]


def test_how_deep_is_too_deep_does_not_depend_on_the_caller():
    def call(depth, data):
        """Read the notebook from so many calls deep."""
        return call(depth - 1, data) if depth else read_notebook(data)

    deep = b'{"cells": ' + b"[" * 99 + b"]" * 99 + b"}"
    assert call(0, deep) == call(500, deep) == [None]
    with pytest.raises(NotANotebook, match="more than 100 deep"):
        call(500, b'{"cells": ' + b"[" * 600 + b"]" * 600 + b"}")

"""From a notebook's cells to one answer: which definition counts, and which statements it needs."""

import builtins
import sys
from textwrap import dedent

import pytest

from course_lib.grading.program import NoAnswer, Notebook
from course_lib.grading.records import Cell

ID = "chapter.answer"
newer = pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax came with Python 3.12")


def notebook(*sources):
    """Return a notebook of these cells."""
    return Notebook.parse(
        Cell(name=f"cell {n}", source=dedent(source)) for n, source in enumerate(sources, 1)
    )


def decorated(definition, id=ID):
    """Return the definition as an answer."""
    return f'@exercise("{id}")\n' + dedent(definition).strip()


def stand_in(id):
    """Return a function that stands in for another exercise."""
    return lambda *args: f"the course's {id}"


def call(*sources, passed=(), args=()):
    """Return what the answer of a notebook returns."""
    return notebook(*sources).program(ID, passed).execute(stand_in)(*args)


def included(*sources, passed=()):
    """Return the first line of every statement that the answer needs."""
    program = notebook(*sources).program(ID, passed)
    lines = [dedent(source).splitlines() for source in sources]
    return [
        lines[int(s.cell.removeprefix("cell ")) - 1][s.node.lineno - 1].strip()
        for s in program.needed
    ]


# ----------------------------------------------------------------------- the definition that counts


@pytest.mark.parametrize(
    "decorator",
    [
        '@exercise("chapter.answer")',
        "@exercise('chapter.answer')",
        '@exercise("chapter." "answer")',
        '@exercise(id="chapter.answer")',
        '@exercise(\n    "chapter.answer",\n)',
        '@room.exercise("chapter.answer")',
        '@course_lib.classroom.exercise("chapter.answer")',
        '@task("chapter.answer")',
        '@exercise("chapter.answer")  # a comment',
    ],
)
def test_the_decorator_is_known_in_every_spelling(decorator):
    found = notebook(
        "from course_lib.classroom import exercise as task", f"{decorator}\ndef f():\n    return 7"
    )
    assert found.program(ID).execute(stand_in)() == 7


@pytest.mark.parametrize(
    "decorator", ['@other("chapter.answer")', "@exercise", "@exercise(ID)", '@exercise("a", "b")']
)
def test_another_decorator_does_not_make_an_answer(decorator):
    with pytest.raises(NoAnswer):
        notebook(f"{decorator}\ndef f():\n    return 7").program(ID)


@pytest.mark.parametrize("above", [True, False])
def test_the_decorator_is_removed_and_the_others_stay(above):
    order = ["@exercise('chapter.answer')", "@twice"][:: 1 if above else -1]
    twice = "def twice(f):\n    return lambda: 2 * f()"
    assert call(twice, "\n".join([*order, "def f():", "    return 7"])) == 14


def test_a_class_is_an_answer():
    answer = notebook(decorated("class Net:\n    width = 3")).program(ID).execute(stand_in)
    assert isinstance(answer, type) and answer.width == 3


def test_an_async_function_is_an_answer():
    coroutine = call(decorated("async def f():\n    return 7"))
    with pytest.raises(StopIteration, match="7"):
        coroutine.send(None)


def test_the_last_of_several_answers_counts_and_the_student_is_told():
    cells = [
        decorated("def f(): return 1"),
        "x = 1",
        decorated("def f(): return 2"),
        decorated("def g(): return 3"),
    ]
    program = notebook(*cells).program(ID)
    assert program.execute(stand_in)() == 3
    assert program.notes == (
        (
            "Your notebook answers this 3 times; the last one counts, in cell 4, not the one in"
            " cell 1, cell 3."
        ),
    )


def test_one_answer_needs_no_note():
    assert (
        notebook(decorated("def f(): return 1"), decorated("def g(): return 1", "chapter.g"))
        .program(ID)
        .notes
        == ()
    )


def test_a_stub_is_an_answer():
    with pytest.raises(NotImplementedError):
        call(decorated("def f():\n    raise NotImplementedError  # your turn"))


# ------------------------------------------------------------------------- cells that are no Python


def test_a_syntax_error_costs_only_its_own_cell():
    cells = ["x = 3", "y = = 4", decorated("def f(): return x"), "def g(:"]
    assert call(*cells) == 3
    assert set(notebook(*cells).broken) == {"cell 2", "cell 4"}


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (
            "\n\n@exercise('chapter.answer')\ndef f(x):\n    return (x",
            r"'\(' was never closed \(line 5\)\.",
        ),
        (
            "@exercise(id='chapter.answer')\ndef f(x):\nreturn x",
            r"expected an indented block .* \(line 3\)\.",
        ),
        ("@room.exercise(\n    'chapter.answer')\ndef f(x) return x", r"expected ':' \(line 3\)\."),
        (
            "@exercise('chapter.answer')\ndef f(x): return " + "(" * 500 + ")" * 500,
            r"too many nested parentheses",
        ),
        ("@exercise('chapter.answer')\ndef f(x): return '\x00'", r"null bytes"),
        ("@exercise('chapter.answer')\ndef f(x): return '\ud800'", r"surrogates not allowed"),
    ],
)
def test_an_answer_that_cannot_be_read_is_reported_by_cell_and_line(source, why):
    with pytest.raises(NoAnswer, match=rf"(?s)^The answer in cell 2 cannot be read: .*{why}"):
        notebook("import torch", source).program(ID)


def test_after_a_broken_answer_an_earlier_one_counts_with_a_note():
    program = notebook(decorated("def f(): return 1"), decorated("def f(: return 2")).program(ID)
    assert program.execute(stand_in)() == 1
    assert len(program.notes) == 1 and program.notes[0].startswith(
        "The answer in cell 2 was left out: "
    )


def test_code_that_cannot_be_compiled_is_an_error_of_its_answer():
    found = notebook(
        decorated("def f(x, x):\n    return x"), decorated("def g(): return 2", "chapter.other")
    )
    with pytest.raises(SyntaxError, match=r"duplicate argument 'x'.*\(cell 1, line 2\)"):
        found.program(ID).execute(stand_in)
    assert found.program("chapter.other").execute(stand_in)() == 2


def test_a_stray_return_below_the_answer_costs_nothing():
    assert call(decorated("def f():\n    return 1") + "\n\nreturn 2\n") == 1


@pytest.mark.parametrize("terms", [400, 2500, 20_000])
def test_a_very_long_sum_costs_at_most_what_uses_it(terms):
    long = "total = " + " + ".join(["1"] * terms)
    assert call(long, decorated("def f(): return 7")) == 7
    if terms == 400:
        assert call(long, decorated("def f(): return total")) == 400


def test_a_name_without_the_decorator_is_reported():
    with pytest.raises(
        NoAnswer, match=r'^`answer` in cell 2 does not count without @exercise\("chapter.answer"\)'
    ):
        notebook("x = 1", "def answer():\n    return 1").program(ID)


def test_a_missing_answer_is_reported():
    with pytest.raises(
        NoAnswer, match=r'^No definition with @exercise\("chapter.answer"\) above it was found\.$'
    ):
        notebook("x = 1", decorated("def f(): return 1", "chapter.other")).program(ID)
    with pytest.raises(NoAnswer):
        notebook().program(ID)


# ------------------------------------------------------------------------------------------- magics


@pytest.mark.parametrize(
    "source",
    [
        "%matplotlib inline\n{}",
        "!pip install torch\n{}",
        "%pip install torch\n{}",
        "{}\n%time f()",
        "%%time\n{}",
        "%%timeit -n 3\n{}",
        "%%capture said\n{}",
        "%%prun\n{}",
        "\n\n%%time\n{}",
        "{}\nf?",
        "?f\n{}",
        "{}\nf??",
        "files = !ls\n{}",
        "    \n{}\n  ",
        "{}\n%load_ext autoreload\n%autoreload 2",
    ],
)
def test_magics_are_removed(source):
    assert call(source.format(decorated("def f():\n    return 7"))) == 7


@pytest.mark.parametrize(
    "magic", ["%%bash", "%%html", "%%javascript", "%%writefile f.py", "%%latex", "%%unknown"]
)
def test_a_cell_in_another_language_holds_no_answer(magic):
    found = notebook(f"{magic}\n" + decorated("def f(): return 7"))
    assert not found.broken
    with pytest.raises(NoAnswer):
        found.program(ID)


@pytest.mark.parametrize(
    "first", ["%%time", "%matplotlib inline", "!ls", "\n\n!ls", "import math", "\n%%time"]
)
def test_lines_keep_their_numbers_where_magics_were(first):
    source = first + "\n" + decorated("def f():\n    return 1 / 0")
    with pytest.raises(ZeroDivisionError) as caught:
        call(source)
    last = caught.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (
        "cell 1",
        source.split("\n").index("    return 1 / 0") + 1,
    )


def test_strange_escapes_in_other_cells_print_nothing(capsys):
    assert call('title = "\\alpha \\d"', decorated("def f(): return 7")) == 7
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------- what comes along, and what not


def test_imports_helpers_and_constants_are_included_in_order():
    cells = [
        "import math\nfrom os import path as place\nimport os.path",
        "WIDTH = 3\nHEIGHT = WIDTH * 2\nAREA = WIDTH * HEIGHT",
        "def root(x):\n    return math.sqrt(x)\n\n\ndef helper(x):\n    return root(x) + AREA",
        "def unused():\n    return place",
        decorated("def f(x):\n    return helper(x)"),
    ]
    assert call(*cells, args=[16]) == 22
    assert included(*cells) == [
        "import math",
        "WIDTH = 3",
        "HEIGHT = WIDTH * 2",
        "AREA = WIDTH * HEIGHT",
        "def root(x):",
        "def helper(x):",
    ]


@pytest.mark.parametrize(
    "cell",
    [
        "for i in range(3):\n    x = boom()",
        "while True:\n    x = boom()",
        "boom()",
        "[boom() for _ in range(3)]",
        "(x := boom())",
        "assert boom()",
        "del x",
        "raise ValueError",
        "show(boom())",
        "model = boom()",
        "with boom() as y:\n    y = x",
        "if boom():\n    y = 1",
        "try:\n    boom()\nexcept ValueError:\n    pass",
        "async def main():\n    pass\nawait main()",
        "return 3",
        "class Loop:\n    boom()",
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_cell_that_would_train_draw_or_raise_is_not_run(cell, place, monkeypatch):
    ran = []
    monkeypatch.setattr(builtins, "boom", lambda: ran.append(1), raising=False)
    cells = ["x = 3", decorated("def f():\n    return x")]
    cells.insert(place, cell)
    assert call(*cells) == 3
    assert not ran


def test_the_sentinel_of_the_test_above_would_notice(monkeypatch):
    ran = []
    monkeypatch.setattr(builtins, "boom", lambda: ran.append(1), raising=False)
    call("x = boom()", decorated("def f():\n    return x"))
    assert ran == [1]


def test_what_is_included_is_run_once_when_the_answer_is_made():
    note = "def note(x):\n    seen.append(x)\n    return x"
    assert call("seen = []", note, "n = note(4)", decorated("def f(): return n, seen")) == (4, [4])


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["n = 1", "n = 2", "{}"], 2),
        (["n = 1", "{}", "n = 2"], 1),
        (["{}", "n = 1", "n = 2"], 1),
        (["n = 1\nn = n + 1\nn = n * 10", "{}"], 20),
        (["n = 1", "n += 4", "n *= 2", "{}", "n += 100"], 10),
        (["n = 1", "m = n", "n = 5", "n = m + n", "{}"], 6),
        (["n: int = 1", "{}"], 1),
        (["n = 3", "n: int", "{}"], 3),
        (["m, (n, *rest) = 1, (2, 3)", "{}"], 2),
        (["m = n = 4", "{}"], 4),
        (["m = (n := 4) + 1", "{}"], 4),
        (["m = [(n := i) for i in range(3)]", "{}"], 2),
        (["def n(): return 1", "n = n()", "{}"], 1),
        (["from math import pi as n", "n = round(n)", "{}"], 3),
        (["n = 5", "def n2(): return n\nn = 7", "{}"], 7),
    ],
)
def test_a_name_means_what_it_means_in_the_notebook(cells, expected):
    answer = decorated("def f(): return n")
    assert call(*[answer if cell == "{}" else cell for cell in cells]) == expected


def test_a_definition_right_below_the_answer_is_found():
    answer = decorated("def f(): return helper() + n")
    assert call(answer + "\ndef helper(): return 1", "n = 2", "n = 50") == 3
    assert call(answer + "\nn = 2\ndef helper(): return n", "def helper(): return 50") == 4


def test_a_function_reads_its_names_when_it_is_called():
    helper = "def helper(): return n"
    assert call("n = 1", helper, "n = 2", decorated("def f(): return helper()")) == 2
    assert call(
        "n = 1", helper, "m = helper()", "n = 2", decorated("def f(): return m, n, helper()")
    ) == (1, 2, 2)
    assert call("n = 1", "helper = lambda: n", "n = 2", decorated("def f(): return helper()")) == 2
    kept = "class A:\n    def get(self): return n"
    assert call("n = 1", kept, "a = A()", "n = 2", decorated("def f(): return a.get()")) == 2


def test_defaults_bases_and_annotations_are_read_at_the_definition():
    assert call(
        "n = 1", "def helper(x=n): return x", "n = 2", decorated("def f(): return helper(), n")
    ) == (1, 2)
    assert call("n = 1", "class A:\n    m = n", "n = 2", decorated("def f(): return A.m, n")) == (
        1,
        2,
    )
    assert call("B = dict", "class A(B): pass", "B = 3", decorated("def f(): return A(a=1)")) == {
        "a": 1
    }
    assert (
        call(
            "n = 2",
            "def times(m): return lambda g: lambda: m * g()",
            decorated("@times(n)\ndef f(): return 4"),
        )
        == 8
    )
    helper = "def helper(x: n) -> 'missing': return helper"
    cells = ["n = 2", helper, "n = 3", decorated("def f(y: n = n) -> n: return helper(y)")]
    assert call(*cells).__annotations__ == {"x": 2, "return": "missing"}
    assert notebook(*cells).program(ID).execute(stand_in).__annotations__ == {"y": 3, "return": 3}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("t[1] = 5", [0, 5, 0]),
        ("t[1] += 5", [0, 5, 0]),
        ("t[0], t[2] = 7, 8", [7, 0, 8]),
        ("t[:2] = [1, 2]", [1, 2, 0]),
        ("t[i[0]] = 4", [0, 4, 0]),
        ("t[1] = t[1] + 2\nt[2] = t[1] + 1", [0, 2, 3]),
        ("u = t\nu[0] = 9", [0, 0, 0]),  # statements for a second name need nothing else
    ],
)
def test_what_changes_a_constant_is_included(change, expected):
    assert call("t = [0, 0, 0]\ni = [1]", change, decorated("def f(): return t")) == expected


@pytest.mark.parametrize(
    "change", ["c.n.m = 3", "c.n.m += 1", "c.n.m, x = 3, 4", "c.n.d['k'].m = 3\nc.n.m = 3"]
)
def test_what_sets_an_attribute_is_included(change):
    make = "from types import SimpleNamespace as S\nc = S(n=S(m=2, d={'k': S()}))"
    assert call(make, change, decorated("def f(): return c.n.m")) == 3


def test_a_setting_of_a_library_is_not_mistaken_for_a_constant():
    imports = "from xml import dom as m"
    program = notebook(
        f"{imports}\nT = 3", "m.setting = 1", decorated("def f(): return m.setting, T")
    ).program(ID)
    assert len(program.needed) == 3 and program.outside == {"T"}


@pytest.mark.parametrize(
    "change", ["m.pi = 1 / 0", "m.a.b = 1 / 0", "m.a[0] = 1 / 0", "if True:\n    m.pi = 1 / 0"]
)
def test_what_is_set_in_a_module_stays_with_the_student(change):
    assert call("import math as m", change, decorated("def f(): return round(m.pi)")) == 3


def test_a_name_that_is_a_module_for_a_while_can_be_changed():
    assert call("import math as m", "m = {}", "m[0] = 3", decorated("def f(): return m[0]")) == 3


def test_only_assignments_count_as_taken_from_outside():
    answer = decorated("def f(c): return helper() + math.pi + c")
    program = notebook("import math\na, b = 1, 2\nc = 5", "def helper(): return a", answer).program(
        ID
    )
    assert program.outside == {"a"}


def test_star_imports_are_included_for_names_not_defined_otherwise():
    cells = [
        "from math import *",
        "from json import dumps",
        decorated("def f(): return dumps(round(pi))"),
    ]
    assert call(*cells) == "3"
    program = notebook(*cells).program(ID)
    assert program.unresolved == {"pi"} and len(program.needed) == 2
    assert (
        len(notebook("from math import *", decorated("def f(): return print")).program(ID).needed)
        == 0
    )


def test_undefined_names_are_reported():
    program = notebook(
        "for i in range(3):\n    step = i", decorated("def f(): return step, len, __name__")
    ).program(ID)
    assert program.unresolved == {"step"}
    with pytest.raises(NameError, match="step"):
        program.execute(stand_in)()


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("if True:\n    n = 2", 2),
        ("if False:\n    n = 2", 1),
        ("if False:\n    pass\nelif m:\n    n = 2\nelse:\n    n = 3", 2),
        ("if m > 1:\n    n += 10", 11),
        ("if (n := m) > 1:\n    pass", 7),
        ("try:\n    import nowhere as n\nexcept ImportError:\n    n = 2", 2),
        ("try:\n    import nowhere as n\nexcept ImportError:\n    pass", 1),
        (
            (
                "try:\n    x = 1 / 0\nexcept ZeroDivisionError:\n    n = 2\nelse:\n    n ="
                " 3\nfinally:\n    n *= 2"
            ),
            4,
        ),
        ("from contextlib import nullcontext as c\nwith c():\n    n = 2", 2),
        ("from contextlib import nullcontext as c\nwith c(5) as n:\n    pass", 5),
        ("if m:\n    with open('/dev/null') as n:\n        if m:\n            n = 6", 6),
        ("if m:\n    def n(): return 3\n    n = n()", 3),
        ("match m:\n    case 7:\n        n = 2\n    case _:\n        n = 3", 2),
        ("match [m, 3]:\n    case [7, n]:\n        pass", 3),
        ("match [m, 3]:\n    case [int(), 3] as n:\n        n = len(n)", 2),
        ("try:\n    raise ExceptionGroup('', [ValueError()])\nexcept* ValueError:\n    n = 2", 2),
    ],
)
def test_blocks_that_define_a_name_are_included(block, expected):
    assert call("n = 1\nm = 7", block, decorated("def f(): return n")) == expected


def test_a_block_that_may_skip_a_name_does_not_take_a_later_one():
    cells = [
        "import nowhere\nn = nowhere.n",
        "if False:\n    n = 2",
        decorated("def f(): return n"),
    ]
    with pytest.raises(ModuleNotFoundError):
        call(*cells)
    assert (
        call(
            "try:\n    n = 2\nexcept ValueError:\n    n = 3",
            decorated("def f(): return n"),
            "n = nowhere()",
        )
        == 2
    )


# ------------------------------------------------------------------------------------------- scopes

GONE = "n = nowhere()"  # would raise NameError if it were included


@pytest.mark.parametrize(
    "body",
    [
        "n = 3\n    return n",
        "for n in [3]:\n        pass\n    return n",
        "with open('/dev/null') as n:\n        return 3",
        "import math as n\n    return int(n.pi)",
        "def n(): return 3\n    return n()",
        "[n] = [3]\n    return n",
        "return [n for n in [3]][0]",
        "return sum(n for n in [1, 2])",
        "return {n: n for n in [3]}[3]",
        "return max({n for n in [3]})",
        "return (lambda n: n)(3)",
        "if (n := 3):\n        return n",
        "n = 1\n    n += 2\n    return n",
        "try:\n        1 / 0\n    except ZeroDivisionError as n:\n        return 3",
        "match [3]:\n        case [n]:\n            return n",
        "n = 1\n    def inner():\n        nonlocal n\n        n = 3\n    inner()\n    return n",
        "n = 3\n    return (lambda: (lambda: n)())()",
        "class n:\n        m = 3\n    return n.m",
        "class A:\n        def n(self): return 3\n    return A().n()",
        "return dict(n=3)['n']",
        "from types import SimpleNamespace as S\n    return S(n=3).n",
        "n: int = 3\n    return n",
        "[(n := m) for m in [1, 3]]\n    return n",
    ],
)
def test_a_local_variable_does_not_include_a_global_of_its_name(body):
    assert call(GONE, decorated(f"def f():\n    {body}")) == 3
    assert call(GONE, f"def helper():\n    {body}", decorated("def f(): return helper()")) == 3


def test_a_parameter_does_not_include_a_global_of_its_name():
    assert call(GONE, decorated("def f(n, *args, **named):\n    return n"), args=[3]) == 3


@pytest.mark.parametrize(
    "body",
    [
        "return n",
        "return [n for _ in [1]][0]",
        "return [m for m in [n]][0]",
        "return next(n for _ in [1])",
        "return (lambda: n)()",
        "def inner():\n        def inmost(): return n\n        return inmost()\n    return inner()",
        "class A:\n        n = n\n    return A.n",
        "class A:\n        def get(self): return n\n    return A().get()",
        "def inner(x=n): return x\n    return inner()",
        "def inner(x: n): return x\n    return inner(3)",
        "global n\n    return n",
        "global n\n    n += 1\n    return n - 1",
        "global n\n    m, n = n, 5\n    return m",
        "match 3:\n        case x if n == x:\n            return x",
        "return f'{n}' and n",
        "return max(*[n, n], key=None)",
        "x = n\n    return x",
    ],
)
def test_a_global_is_found_wherever_it_is_looked_up(body):
    answer = decorated(f"def f():\n    {body}")
    assert call("n = 3", answer) == 3
    assert "n = 3" in included("n = 3", answer)


def test_a_global_that_functions_change_is_included():
    count = "def count():\n    global calls\n    calls += 1"
    assert (
        call("calls = 0", count, decorated("def f():\n    count(); count()\n    return calls")) == 2
    )


@pytest.mark.parametrize(
    "cell",
    [
        "def n(): return m",
        "n = lambda: m",
        "n = [lambda: m][0]",
        "def make(): return lambda: m\nn = make()",
        "import functools\nn = functools.partial(lambda x: x, m)",
        "def deco(f): return f\n@deco\ndef n(): return m",
        "class A:\n    k = m\n    def __call__(self): return self.k\nn = A()",
        "class A:\n    def __call__(self): return m\nn = A()",
        "class A:\n    def __call__(self): return m\nclass B(A): pass\nn = B()",
        "k = [i * m for i in (1,)]\ndef n(): return k[0]",
        "k = {'a': m}\nn = lambda: k['a']",
        (
            "from dataclasses import dataclass\n@dataclass\nclass A:\n    k: int = m\ndef n():"
            " return A().k"
        ),
        "def outer():\n    k = m\n    def n(): return k\n    return n\nn = outer()",
    ],
)
def test_what_included_statements_need_is_included(cell):
    assert call("m = 3", cell, decorated("def f(): return n()")) == 3


def test_recursion_and_mutual_recursion_end():
    assert call(decorated("def f(n): return n and n + f(n - 1)"), args=[4]) == 10
    even = "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)"
    assert call(even, decorated("def f(n): return even(n)"), args=[10]) is True
    assert (
        call(
            "def helper(n): return f(n - 1)",
            decorated("def f(n): return n and helper(n)"),
            args=[4],
        )
        == 0
    )


def test_constants_that_need_each_other_fail_as_in_the_notebook():
    with pytest.raises(NameError):
        call("a = b", "b = a", decorated("def f(): return a"))


def test_display_prints_as_it_does_in_a_notebook(capsys):
    assert call(decorated("def f():\n    display(1, 'two')\n    return 3")) == 3
    assert capsys.readouterr().out == "1 two\n"


def test_code_guarded_by_main_is_run_as_in_a_notebook():
    assert call(
        "if __name__ == '__main__':\n    n = 3", decorated("def f(): return n, __name__")
    ) == (
        3,
        "__main__",
    )


# -------------------------------------------------------------------------- annotations and aliases


def test_annotations_from_the_future_need_no_names():
    cells = [
        "from __future__ import annotations",
        decorated("def f(x: Missing, y: Tensor[3]) -> Nowhere:\n    return x"),
    ]
    assert call(*cells, args=[1, 2]) == 1
    program = notebook(*cells).program(ID)
    assert (
        program.unresolved == set() and program.execute(stand_in).__annotations__["x"] == "Missing"
    )


def test_annotations_from_the_future_hold_for_helpers_in_other_cells():
    cells = [
        "import torch",
        "from __future__ import annotations, division",
        "class A:\n    n: Missing = 3\n    m: Missing",
        "k: Missing = 4",
        decorated("def f(): return A.n + k"),
    ]
    assert call(*cells) == 7


def test_without_the_future_an_annotation_that_is_not_there_is_an_error():
    with pytest.raises(NameError, match="Missing"):
        call(decorated("def f(x: Missing): return x"), args=[1])


def test_a_generic_alias_is_included():
    assert call(
        "Vec = list[float]", decorated("def f(x: Vec) -> Vec: return Vec([x])"), args=[3]
    ) == [3]


@newer
@pytest.mark.parametrize(
    "answer",
    [
        "def f(x: Vec): return Vec.__value__",
        "def f[T: Vec](x: T) -> T: return Vec.__value__",
        "def f(x):\n    class A[T: Vec]:\n        y: Vec\n    return Vec.__value__",
        "def f(x):\n    type W = Vec\n    return W.__value__.__value__",
    ],
)
def test_type_statements_and_type_parameters_are_understood(answer):
    cells = ["Item = float\nn = 3", "type Vec = list[Item]", decorated(answer)]
    assert call(*cells, args=[0]) == list[float]
    assert included(*cells) == ["Item = float", "type Vec = list[Item]"]


@newer
def test_a_type_parameter_does_not_include_a_global_of_its_name():
    assert call(GONE, decorated("def f[n](x: n) -> n: return 3"), args=[0]) == 3
    assert call(GONE, "class A[n]:\n    x: n", decorated("def f(): return A and 3")) == 3


# ---------------------------------------------------------------------------------- other exercises

HELPER = decorated("def helper(): return 'my own'", "chapter.helper")


def test_another_exercise_is_the_courses_unless_it_has_passed():
    cells = [HELPER, decorated("def f(): return helper()")]
    program = notebook(*cells).program(ID)
    assert program.replaced == {"helper": "chapter.helper"} and program.needed == ()
    assert call(*cells) == "the course's chapter.helper"
    assert call(*cells, passed=["chapter.helper"]) == "my own"
    assert notebook(*cells).program(ID, ["chapter.helper"]).replaced == {}


def test_a_replaced_exercise_includes_nothing():
    wrong = GONE + "\n" + decorated("def helper(): return n", "chapter.helper")
    assert call(wrong, decorated("def f(): return helper()")) == "the course's chapter.helper"


def test_a_helper_that_uses_another_exercise_gets_the_right_one():
    cells = [HELPER, "def between(): return helper()", decorated("def f(): return between()")]
    assert call(*cells) == "the course's chapter.helper"
    assert call(*cells, passed=["chapter.helper"]) == "my own"


def test_a_passed_exercise_includes_what_it_needs():
    cells = [
        "k = 'k'",
        decorated("def helper(): return k", "chapter.helper"),
        decorated("def f(): return helper()"),
    ]
    assert call(*cells, passed=["chapter.helper"]) == "k"


def test_exercises_that_use_each_other_end():
    cells = [
        decorated("def helper(n): return f(n - 1)", "chapter.helper"),
        decorated("def f(n): return n and helper(n)"),
    ]
    assert call(*cells, passed=["chapter.helper"], args=[5]) == 0
    assert call(*cells, args=[5]) == "the course's chapter.helper"


def test_a_wrapped_exercise_is_wrapped_around_the_courses():
    cells = [
        HELPER,
        "import functools\nhelper = functools.cache(helper)",
        decorated("def f(): return helper()"),
    ]
    assert call(*cells) == "the course's chapter.helper"
    assert call(*cells, passed=["chapter.helper"]) == "my own"


def test_a_later_definition_without_the_decorator_hides_the_exercise():
    cells = [HELPER, "def helper(): return 'plain'", decorated("def f(): return helper()")]
    assert call(*cells) == "plain"


def test_an_earlier_attempt_at_the_same_answer_is_never_included():
    assert (
        call(
            decorated("def f(n): return 'old'"),
            decorated("def f(n): return n and f(n - 1)"),
            args=[3],
        )
        == 0
    )
    cells = [decorated("def first(): return 1"), decorated("def f(): return first()")]
    assert notebook(*cells).program(ID).unresolved == {"first"}

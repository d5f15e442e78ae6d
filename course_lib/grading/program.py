"""From a notebook's code to one answer: the definition that counts, and the statements it needs.

An answer needs the statements that define the global names it uses, and those that these need in
turn: imports, functions, classes, assignments, and the `if`, `match`, `try` and `with` blocks that
hold such.  Loops and bare expressions, such as training or a plot, never come along, nor does what
is set in a module (`torch.x = ...`): all answers share the module, and one must not cost another
its mark.  A name means its last definition above the answer; where there is none above, the first
below.
"""

import __future__

import ast
import builtins
import dis
import functools
import inspect
import linecache
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from course_lib.grading.records import Cell

BLOCKS = (ast.If, ast.Match, ast.Try, ast.TryStar, ast.With)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)
# `type Picture = Tensor`, from Python 3.12
ALIASES = (ast.TypeAlias,) if hasattr(ast, "TypeAlias") else ()
IMPORTS = (ast.Import, ast.ImportFrom)
COMING_ALONG = (*IMPORTS, *FUNCTIONS, *ASSIGNMENTS, *ALIASES, *BLOCKS)
LOOKUPS = {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_GLOBAL"}
MAGICS = re.compile(r"^[ \t]*[%!,;/]|[?]|=\s*[%!]", re.MULTILINE)  # wherever IPython could see one
# characters that IPython may read in a notebook; it reads a cell anew after each magic
EFFORT = 500_000
PYTHON_MAGICS = re.compile(r"%%(time|timeit|capture|prun)\b.*")
ALWAYS_THERE = {*dir(builtins), "__name__", "__file__", "__doc__", "__annotations__", "display"}
UNREADABLE = (SyntaxError, ValueError, RuntimeError, MemoryError)


class NoAnswer(LookupError):
    """The notebook holds no answer that could be run; the message tells the student why."""


@dataclass(frozen=True)
class Statement:
    """A top-level statement: where it stands, the exercise that it answers, and the global names it
    defines.
    """

    position: int
    cell: str
    node: ast.stmt
    answers: str | None
    binds: frozenset[str]
    flags: int  # of the compiler

    @functools.cached_property
    def code(self) -> CodeType:
        """Raises what `compile` raises: not all that can be parsed is Python."""
        return compile(
            ast.Module([self.node], []), self.cell, "exec", self.flags, dont_inherit=True
        )

    @functools.cached_property
    def uses(self) -> frozenset[tuple[str, bool]]:
        """The global names that it looks up, and whether at once or when a function that it defines
        is called.
        """
        try:
            return frozenset(_looked_up(self.code))
        except UNREADABLE:  # raised again where it is executed
            return frozenset()


@dataclass(frozen=True)
class Program:
    """One answer and the statements to be executed before it, in order.

    replaced    names that stand for other exercises, with their ids; the course's own versions are used
    unresolved  names that nothing in the notebook defines
    outside     what the answer takes from plain assignments
    notes       what the student should know about the choice of the definition
    """

    answer: Statement
    needed: tuple[Statement, ...]
    replaced: Mapping[str, str]
    unresolved: frozenset[str]
    outside: frozenset[str]
    notes: tuple[str, ...] = ()

    def execute(self, reference: Callable[[str], Any]) -> Any:
        """The student's function or class.  `reference(id)` stands in for exercises that are
        replaced.
        """
        namespace = {name: reference(id) for name, id in self.replaced.items()}
        namespace |= {"__name__": "__main__", "display": print}
        for statement in (*self.needed, self.answer):
            exec(statement.code, namespace)
        return namespace[self.answer.node.name]


@dataclass
class Notebook:
    """The statements of a notebook's code cells.  A cell that is not Python is kept with what is
    wrong with it.
    """

    statements: list[Statement] = field(default_factory=list)
    # cell: (source, what is wrong)
    broken: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, cells: Iterable[Cell]) -> "Notebook":
        parsed, broken, reader = [], {}, _Reader()
        for cell in cells:
            try:
                source, tree = reader.parse(cell.source)
            except UNREADABLE as error:
                broken[cell.name] = (cell.source, _what_is_wrong(error))
                continue
            linecache.cache[cell.name] = (
                len(source),
                None,
                source.splitlines(keepends=True),
                cell.name,
            )
            parsed += [(cell.name, node) for node in tree.body]
        nodes = [node for _, node in parsed]
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        marks, flags, modules = _names_of_the_decorator(imports), _flags(imports), _modules(nodes)
        return cls(
            [
                _statement(i, cell, node, marks, flags, modules)
                for i, (cell, node) in enumerate(parsed)
            ],
            broken,
        )

    def program(self, id: str, passed: Collection[str] = ()) -> Program:
        """The answer to exercise `id`: the last definition decorated with it.

        passed: the exercises whose own answers of this notebook may be used by this one.
        Raises NoAnswer where there is none.
        """
        found = [statement for statement in self.statements if statement.answers == id]
        if not found:
            raise NoAnswer(self._why_missing(id))
        answer = found[-1]
        notes = [f"The answer in {cell} was left out: {why}" for cell, why in self._broken_with(id)]
        if len(found) > 1:
            others = ", ".join(dict.fromkeys(statement.cell for statement in found[:-1]))
            notes.append(
                f"Your notebook answers this {len(found)} times; the last one counts, in"
                f" {answer.cell}, not the one in {others}."
            )
        return _slice(answer, self.statements, passed, tuple(notes))

    def _broken_with(self, id: str) -> list[tuple[str, str]]:
        mark = re.compile(rf"@[\w.]+\(\s*(id\s*=\s*)?['\"]{re.escape(id)}['\"]")
        return [(cell, why) for cell, (source, why) in self.broken.items() if mark.search(source)]

    def _why_missing(self, id: str) -> str:
        for cell, why in self._broken_with(id):
            return f"The answer in {cell} cannot be read: {why}"
        name = id.partition(".")[2]
        for statement in self.statements:
            if isinstance(statement.node, FUNCTIONS) and statement.node.name == name:
                return (
                    f'`{name}` in {statement.cell} does not count without @exercise("{id}")'
                    " above it."
                )
        return f'No definition with @exercise("{id}") above it was found.'


# ------------------------------------------------------------------------------------------------ reading


@dataclass
class _Reader:
    effort: int = EFFORT  # that is left

    def parse(self, source: str) -> tuple[str, ast.Module]:
        """The cell as Python, lines in their places: magics are taken out where they are in the
        way.
        """
        try:
            return source, _tree(source)
        except SyntaxError as error:
            lines = source.lstrip("\n").splitlines()
            if lines and PYTHON_MAGICS.fullmatch(lines[0].strip()):
                source = source.replace(lines[0], "", 1)
            elif lines and lines[0].startswith("%%"):
                return "", ast.parse("")  # another language
            self.effort -= len(source) * (1 + len(MAGICS.findall(source)))
            if self.effort < 0:
                raise error
        # needed for few cells, slow to import
        from IPython.core.inputtransformer2 import TransformerManager

        above = "\n" * (len(source) - len(source.lstrip("\n")))  # which IPython takes away
        source = above + TransformerManager().transform_cell(source)
        return source, _tree(source)


def _tree(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they would stand among what the answer prints
        return ast.parse(source)


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg or 'invalid syntax'} (line {error.lineno or 1})."
    if isinstance(error, ValueError):
        return f"{error}."
    return "it is nested too deeply."


def _names_of_the_decorator(imports: Iterable[ast.ImportFrom]) -> set[str]:
    names = (alias for node in imports for alias in node.names)
    return {"exercise"} | {
        alias.asname for alias in names if alias.name == "exercise" and alias.asname
    }


def _flags(imports: Iterable[ast.ImportFrom]) -> int:
    """`from __future__ import annotations` holds for all that follows in a notebook, not for its
    own cell alone.
    """
    future = {alias.name for node in imports if node.module == "__future__" for alias in node.names}
    return __future__.annotations.compiler_flag if "annotations" in future else 0


def _statement(
    position: int, cell: str, node: ast.stmt, marks: set[str], flags: int, modules: set[str]
) -> Statement:
    answers = None
    if isinstance(node, FUNCTIONS):
        ids = {
            id(mark): name for mark in node.decorator_list if (name := _exercise_id(mark, marks))
        }
        answers = next(iter(ids.values()), None)
        node.decorator_list = [mark for mark in node.decorator_list if id(mark) not in ids]
    return Statement(position, cell, node, answers, frozenset(_binds(node, modules)), flags)


def _exercise_id(mark: ast.expr, names: set[str]) -> str | None:
    """ "ddpm.q_sample" of @exercise("ddpm.q_sample"), @room.exercise(id="ddpm.q_sample") and the
    like.
    """
    if not isinstance(mark, ast.Call):
        return None
    name = mark.func.id if isinstance(mark.func, ast.Name) else getattr(mark.func, "attr", None)
    values = [*mark.args, *(keyword.value for keyword in mark.keywords)]
    constant = values[0].value if len(values) == 1 and isinstance(values[0], ast.Constant) else None
    return constant if name in names and isinstance(constant, str) else None


# ------------------------------------------------------------------------------------------------ names


def _modules(nodes: Iterable[ast.stmt]) -> set[str]:
    """The names that stand for imported modules and for nothing else."""
    imports = [node for node in nodes if isinstance(node, ast.Import)]
    names = {
        alias.asname or alias.name.partition(".")[0] for node in imports for alias in node.names
    }
    return names.difference(
        *(_binds(node, names) for node in nodes if not isinstance(node, ast.Import))
    )


def _binds(statement: ast.stmt, modules: Collection[str]) -> Iterator[str]:
    """The global names that a statement defines or changes: `a, b = ...` has two, `table[3] = ...`
    changes one.

    `torch.x = ...` counts for none: see above.
    """
    waiting: list[ast.AST] = [statement] if isinstance(statement, COMING_ALONG) else []
    while waiting:
        match node := waiting.pop():
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
            case (
                ast.Name(ctx=ast.Store(), id=name)
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
            ):
                yield name
                waiting += ast.iter_child_nodes(node)
            case ast.Subscript(ctx=ast.Store()) | ast.Attribute(ctx=ast.Store()):
                while isinstance(node, (ast.Subscript, ast.Attribute)):
                    node = node.value
                if isinstance(node, ast.Name) and node.id not in modules:
                    yield node.id
            case (
                ast.Lambda()
                | ast.comprehension()
                | ast.For()
                | ast.While()
                | ast.Expr()
                | ast.AnnAssign(value=None)
            ):
                pass  # the variables of its own, or nothing
            case _:
                waiting += ast.iter_child_nodes(node)


def _looked_up(code: CodeType, at_once: bool = True) -> Iterator[tuple[str, bool]]:
    """The global names that code looks up, those of its functions included: these when they are
    called.
    """
    yield from (
        (step.argval, at_once) for step in dis.get_instructions(code) if step.opname in LOOKUPS
    )
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            runs = not inner.co_flags & inspect.CO_OPTIMIZED or re.fullmatch(
                "<(?!lambda).*>", inner.co_name
            )
            # the body of a class, or a comprehension
            yield from _looked_up(inner, at_once and bool(runs))


def _slice(
    answer: Statement, statements: list[Statement], passed: Collection[str], notes: tuple[str, ...]
) -> Program:
    needed: dict[int, Statement] = {}
    replaced: dict[str, str] = {}
    unresolved: set[str] = set()
    outside: set[str] = set()
    # when the answer is called, functions look up what names mean then
    called = answer.position + 1
    waiting = sorted({(name, called) for name, _ in answer.uses})
    seen = set(waiting)
    while waiting:
        name, before = waiting.pop()
        found = _definition(name, before, answer, statements, below=before == called)
        if found is None:
            unresolved.add(name)
        elif found is not answer and found.answers and found.answers not in passed:
            replaced[name] = found.answers
        elif found is not answer:
            needed[found.position] = found
            outside |= {name} if isinstance(found.node, ASSIGNMENTS) else set()
            # a function can be called where it is asked for, and be kept till the end
            times = {before, called}
            more = {
                (use, found.position if now else time) for use, now in found.uses for time in times
            }
            if isinstance(found.node, BLOCKS):  # which may leave the name as it was
                more.add((name, found.position))
            waiting += sorted(more - seen)
            seen |= more
    unresolved -= ALWAYS_THERE.union(*(statement.binds for statement in needed.values()))
    # `nn.x = ...`
    outside -= set().union(*(s.binds for s in needed.values() if isinstance(s.node, IMPORTS)))
    if unresolved:  # they may come from `from somewhere import *`
        stars = [s for s in statements if isinstance(s.node, ast.ImportFrom) and "*" in s.binds]
        needed |= {star.position: star for star in stars}
    chosen = tuple(needed[position] for position in sorted(needed))
    return Program(answer, chosen, replaced, frozenset(unresolved), frozenset(outside), notes)


def _definition(
    name: str, before: int, answer: Statement, statements: list[Statement], below: bool
) -> Statement | None:
    """The last statement above position `before` that binds the name; else the first below, if
    asked for.
    """
    binding = [
        s for s in statements if name in s.binds and (s is answer or s.answers != answer.answers)
    ]
    above = [s for s in binding if s.position < before]
    return (
        above[-1] if above else next((s for s in binding if below and s.position >= before), None)
    )

"""From a notebook's code to one answer: the definition that counts, and the statements it needs.

An answer needs the statements that define the global names it uses, and those that these need in
turn: imports, functions, classes, assignments, and the `if`, `match`, `try` and `with` blocks that
contain them.  Loops and bare expressions, such as training or a plot, are never included; nor is
what is set in a module (`torch.x = ...`), because all answers share the module, and one must not
cost another its mark.  A name means its last definition above the answer or, if there is none
above, the first below.
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
# `type Image = Tensor`, from Python 3.12 on.
ALIASES = (ast.TypeAlias,) if hasattr(ast, "TypeAlias") else ()
IMPORTS = (ast.Import, ast.ImportFrom)
INCLUDED = (*IMPORTS, *FUNCTIONS, *ASSIGNMENTS, *ALIASES, *BLOCKS)
LOOKUPS = {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_GLOBAL"}
# Matches wherever IPython could see a magic.
MAGICS = re.compile(r"^[ \t]*[%!,;/]|[?]|=\s*[%!]", re.MULTILINE)
PYTHON_MAGICS = re.compile(r"%%(time|timeit|capture|prun)\b.*")
# Characters that IPython may read in a notebook; it reads a cell again after each magic.
MAX_MAGIC_CHARS = 500_000
ALWAYS_DEFINED = {*dir(builtins), "__name__", "__file__", "__doc__", "__annotations__", "display"}
PARSE_ERRORS = (SyntaxError, ValueError, RuntimeError, MemoryError)


class NoAnswer(LookupError):
    """The notebook holds no answer that could be run; the message tells the student why."""


@dataclass(frozen=True)
class Statement:
    """A top-level statement.

    position  its index in the notebook
    cell      the name of its cell
    answers   the id of the exercise that it answers, if it does
    binds     the global names that it defines
    flags     for the compiler
    """

    position: int
    cell: str
    node: ast.stmt
    answers: str | None
    binds: frozenset[str]
    flags: int

    @functools.cached_property
    def code(self) -> CodeType:
        """The compiled statement.

        Raises what `compile` raises, because not everything that can be parsed is valid Python.
        """
        module = ast.Module([self.node], [])
        return compile(module, self.cell, "exec", self.flags, dont_inherit=True)

    @functools.cached_property
    def uses(self) -> frozenset[tuple[str, bool]]:
        """The global names that it looks up.

        Each comes with True if it is looked up at once, and with False if only when a function that
        the statement defines is called.
        """
        try:
            return frozenset(_global_lookups(self.code))
        except PARSE_ERRORS:  # raised again when the statement is executed
            return frozenset()


@dataclass(frozen=True)
class Program:
    """One answer and the statements to be executed before it, in order.

    replaced    names of other exercises, with their ids, that get the course's own versions
    unresolved  names that nothing in the notebook defines
    outside     names that the answer takes from plain assignments
    notes       what the student should know about the choice of the definition
    """

    answer: Statement
    needed: tuple[Statement, ...]
    replaced: Mapping[str, str]
    unresolved: frozenset[str]
    outside: frozenset[str]
    notes: tuple[str, ...] = ()

    def execute(self, reference: Callable[[str], Any]) -> Any:
        """Return the student's function or class; `reference(id)` supplies replaced exercises."""
        namespace = {name: reference(id) for name, id in self.replaced.items()}
        namespace |= {"__name__": "__main__", "display": print}
        for statement in (*self.needed, self.answer):
            exec(statement.code, namespace)
        return namespace[self.answer.node.name]


@dataclass
class Notebook:
    """The statements of a notebook's code cells.

    broken  cells that are not Python: name -> (source, what is wrong with it)
    """

    statements: list[Statement] = field(default_factory=list)
    broken: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, cells: Iterable[Cell]) -> "Notebook":
        parsed = []
        broken = {}
        parser = _CellParser()
        for cell in cells:
            try:
                source, tree = parser.parse(cell.source)
            except PARSE_ERRORS as error:
                broken[cell.name] = (cell.source, _describe_parse_error(error))
                continue
            # Tracebacks find the lines of a cell here.
            lines = source.splitlines(keepends=True)
            linecache.cache[cell.name] = (len(source), None, lines, cell.name)
            parsed += [(cell.name, node) for node in tree.body]
        nodes = [node for _, node in parsed]
        decorators = {"exercise"}
        flags = 0
        for node in nodes:
            for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                if alias.name == "exercise" and alias.asname:
                    decorators.add(alias.asname)
                # In a notebook this import also holds for all later cells.
                if node.module == "__future__" and alias.name == "annotations":
                    flags = __future__.annotations.compiler_flag
        modules = _modules(nodes)
        statements = []
        for position, (cell, node) in enumerate(parsed):
            answers = _remove_exercise(node, decorators)
            binds = frozenset(_binds(node, modules))
            statements.append(Statement(position, cell, node, answers, binds, flags))
        return cls(statements, broken)

    def program(self, id: str, passed: Collection[str] = ()) -> Program:
        """Return the answer to exercise `id`: the last definition decorated with it.

        passed: the exercises of which this answer may use the student's own versions.
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
        decorator = re.compile(rf"@[\w.]+\(\s*(id\s*=\s*)?['\"]{re.escape(id)}['\"]")
        broken = self.broken.items()
        return [(cell, why) for cell, (source, why) in broken if decorator.search(source)]

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


# ------------------------------------------------------------------------------------------ parsing


@dataclass
class _CellParser:
    chars_left: int = MAX_MAGIC_CHARS

    def parse(self, source: str) -> tuple[str, ast.Module]:
        """Parse a cell as Python; magics are removed where they are in the way, lines stay."""
        try:
            return source, _parse_quietly(source)
        except SyntaxError as error:
            lines = source.lstrip("\n").splitlines()
            if lines and PYTHON_MAGICS.fullmatch(lines[0].strip()):
                source = source.replace(lines[0], "", 1)
            elif lines and lines[0].startswith("%%"):
                return "", ast.parse("")  # another language
            self.chars_left -= len(source) * (1 + len(MAGICS.findall(source)))
            if self.chars_left < 0:
                raise error
        # Imported here, because it is slow to import and few cells need it.
        from IPython.core.inputtransformer2 import TransformerManager

        # IPython removes leading empty lines.
        above = "\n" * (len(source) - len(source.lstrip("\n")))
        source = above + TransformerManager().transform_cell(source)
        return source, _parse_quietly(source)


def _parse_quietly(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # would appear among what the answer prints
        return ast.parse(source)


def _describe_parse_error(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg or 'invalid syntax'} (line {error.lineno or 1})."
    if isinstance(error, ValueError):
        return f"{error}."
    return "it is nested too deeply."


def _remove_exercise(node: ast.stmt, decorators: set[str]) -> str | None:
    """Remove a definition's @exercise decorators; return the id of the first, if there is one."""
    if not isinstance(node, FUNCTIONS):
        return None
    ids = []
    others = []
    for decorator in node.decorator_list:
        if id := _exercise_id(decorator, decorators):
            ids.append(id)
        else:
            others.append(decorator)
    node.decorator_list = others
    return ids[0] if ids else None


def _exercise_id(decorator: ast.expr, names: set[str]) -> str | None:
    """Return "ddpm.q_sample" for @exercise("ddpm.q_sample"), @room.exercise(id="ddpm.q_sample")."""
    if not isinstance(decorator, ast.Call):
        return None
    function = decorator.func
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", None)
    values = [*decorator.args, *(keyword.value for keyword in decorator.keywords)]
    if name not in names or len(values) != 1 or not isinstance(values[0], ast.Constant):
        return None
    return values[0].value if isinstance(values[0].value, str) else None


# -------------------------------------------------------------------------------------------- names


def _modules(nodes: Iterable[ast.stmt]) -> set[str]:
    """Return the names that stand for imported modules and for nothing else."""
    names = set()
    others = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        else:
            others.append(node)
    return names.difference(*(_binds(node, names) for node in others))


def _binds(statement: ast.stmt, modules: Collection[str]) -> Iterator[str]:
    """Yield the global names that a statement defines or changes.

    `a, b = ...` defines two, `table[3] = ...` changes one, and `torch.x = ...` counts as none: see
    the top of this file.
    """
    waiting: list[ast.AST] = [statement] if isinstance(statement, INCLUDED) else []
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
                pass  # binds variables of its own, or nothing
            case _:
                waiting += ast.iter_child_nodes(node)


def _global_lookups(code: CodeType, at_once: bool = True) -> Iterator[tuple[str, bool]]:
    """Yield the global names that code looks up, and whether at once; see Statement.uses."""
    for step in dis.get_instructions(code):
        if step.opname in LOOKUPS:
            yield step.argval, at_once
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            # The body of a class, or of a comprehension, runs with the code around it.
            is_class = not inner.co_flags & inspect.CO_OPTIMIZED
            is_comprehension = re.fullmatch("<(?!lambda).*>", inner.co_name)
            yield from _global_lookups(inner, at_once and bool(is_class or is_comprehension))


def _slice(
    answer: Statement, statements: list[Statement], passed: Collection[str], notes: tuple[str, ...]
) -> Program:
    """Return the answer with the statements it needs, directly and indirectly."""
    needed: dict[int, Statement] = {}
    replaced: dict[str, str] = {}
    unresolved: set[str] = set()
    outside: set[str] = set()
    # By the time the answer is called, all statements above it have been executed.
    called = answer.position + 1
    waiting = sorted({(name, called) for name, _ in answer.uses})
    seen = set(waiting)
    while waiting:
        name, before = waiting.pop()
        found = _definition(name, before, answer, statements, below=before == called)
        if found is None:
            unresolved.add(name)
        elif found is answer:
            continue
        elif found.answers and found.answers not in passed:
            replaced[name] = found.answers
        else:
            needed[found.position] = found
            if isinstance(found.node, ASSIGNMENTS):
                outside.add(name)
            more = set()
            for use, at_once in found.uses:
                # A function can be called where its name is looked up, or later by the answer.
                times = {found.position} if at_once else {before, called}
                more.update((use, time) for time in times)
            if isinstance(found.node, BLOCKS):  # which may leave the name as it was
                more.add((name, found.position))
            waiting += sorted(more - seen)
            seen |= more
    unresolved -= ALWAYS_DEFINED.union(*(statement.binds for statement in needed.values()))
    for statement in needed.values():
        if isinstance(statement.node, IMPORTS):  # the assignment was `nn.x = ...`
            outside -= statement.binds
    if unresolved:  # these names may come from `from somewhere import *`
        for statement in statements:
            if isinstance(statement.node, ast.ImportFrom) and "*" in statement.binds:
                needed[statement.position] = statement
    chosen = tuple(needed[position] for position in sorted(needed))
    return Program(answer, chosen, replaced, frozenset(unresolved), frozenset(outside), notes)


def _definition(
    name: str, before: int, answer: Statement, statements: list[Statement], below: bool
) -> Statement | None:
    """Return the last statement above position `before` that binds a name, if there is one.

    If there is none and `below` is true, return the first below.
    """
    first_below = None
    last_above = None
    for statement in statements:
        is_other_answer = statement is not answer and statement.answers == answer.answers
        if name not in statement.binds or is_other_answer:
            continue
        if statement.position < before:
            last_above = statement
        elif first_below is None:
            first_below = statement
    return last_above or (first_below if below else None)

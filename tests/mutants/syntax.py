"""Single slips in a function's text, found in its syntax tree: `slips(source)` lists them.

What a slip is: another operator, constant, axis or comparison; a term, a call, a keyword, a
statement or an index left out; arguments, axes of a pattern, elements or names exchanged.
Docstrings, annotations and the texts of errors stay as they are.
"""

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST = 60  # characters of an expression in a name

OPERATORS = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/", "+"),
    ast.Div: ("/", "*", "//"),
    ast.FloorDiv: ("//", "*", "/"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.MatMult: ("@", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
COMPARISONS = {
    ast.Lt: ("<", "<=", ">"),
    ast.LtE: ("<=", "<", ">="),
    ast.Gt: (">", ">=", "<"),
    ast.GtE: (">=", ">", "<="),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
NAMES = {  # of functions and methods
    "mean": "sum",
    "sum": "mean",
    "argmax": "argmin",
    "argmin": "argmax",
    "max": "min",
    "min": "max",
    "amax": "amin",
    "amin": "amax",
    "maximum": "minimum",
    "minimum": "maximum",
    "any": "all",
    "all": "any",
    "floor": "ceil",
    "ceil": "floor",
    "round": "floor",
    "cumsum": "cumprod",
    "cumprod": "cumsum",
    "zeros": "ones",
    "ones": "zeros",
    "new_zeros": "new_ones",
    "zeros_like": "ones_like",
    "ones_like": "zeros_like",
    "sin": "cos",
    "cos": "sin",
    "softmax": "log_softmax",
    "log_softmax": "softmax",
    "square": "abs",
    "tril": "triu",
    "triu": "tril",
    "repeat": "repeat_interleave",
    "mse_loss": "l1_loss",
    "relu": "abs",
    "erfc": "erf",
}
WORDS = {  # of texts that choose
    "mean": "sum",
    "sum": "mean",
    "max": "min",
    "min": "max",
    "bilinear": "nearest",
    "reflect": "replicate",
    "replicate": "reflect",
    "ij": "xy",
    "zeros": "replicate",
}
CHECKS = ("validate", "require", "check")  # how functions begin that only refuse what is invalid
SYMMETRIC = {"max", "min", "maximum", "minimum", "logaddexp", "mse_loss"}
LIBRARIES = {"torch", "F", "nn", "math", "np", "einops"}


@dataclass(frozen=True)
class Slip:
    """One edit of a source: its stable, readable name and the whole changed text."""

    name: str
    text: str


def slips(source: str, *, as_reference: bool = True) -> list[Slip]:
    """Return all single slips of a function's or class's text, each once, in their order in it.

    What does not compile or has the same syntax tree is left out.  as_reference: False for a
    function that the reference calls: its defaults and its guards (`if ...: raise`) stay.
    """
    found: list[Slip] = []
    seen = {_tree(source)}
    names: dict[str, int] = {}
    for name, text in _Finder(source, as_reference).find():
        try:
            tree = _tree(text)
        except (SyntaxError, ValueError):
            continue
        if tree in seen:
            continue
        seen.add(tree)
        names[name] = names.get(name, 0) + 1
        found.append(Slip(name if names[name] == 1 else f"{name} ({names[name]})", text))
    return found


def _tree(source: str) -> str:
    return ast.dump(ast.parse(source))


class _Finder:
    def __init__(self, source: str, as_reference: bool) -> None:
        self.bytes = source.encode()
        self.lines = [0, *itertools.accumulate(map(len, self.bytes.splitlines(keepends=True)))]
        self.as_reference = as_reference
        self.changes: list[tuple[int, int, str, str]] = []  # line, order, name, text
        self.tree = ast.parse(source)
        self.parents = {
            child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)
        }

    def find(self) -> list[tuple[str, str]]:
        for node in self._code(self.tree):
            for kind in type(node).__mro__:
                if handler := getattr(self, f"_{kind.__name__}", None):
                    handler(node)
        return [(name, text) for *_, name, text in sorted(self.changes, key=lambda c: c[:2])]

    # ------------------------------------------------------------------------------------ the text

    def _code(self, node: ast.AST) -> Iterator[ast.AST]:
        """Walk through what runs: no docstrings, annotations, f-strings and raised errors."""
        yield node
        skipped: list[ast.AST] = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            skipped += [node.returns] if node.returns else []
            skipped += [] if self.as_reference else [node.args]
        if isinstance(node, ast.arg):
            skipped += [node.annotation] if node.annotation else []
        if isinstance(node, ast.AnnAssign):
            skipped.append(node.annotation)
        if isinstance(node, ast.If) and not self.as_reference and _is_guard(node):
            return
        if _is_text(node) or isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert)):
            return
        if _is_check(node) or (isinstance(node, ast.keyword) and node.arg == "strict"):
            return
        for child in ast.iter_child_nodes(node):
            if child not in skipped:
                yield from self._code(child)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self.lines[node.lineno - 1] + node.col_offset
        return start, self.lines[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self.bytes[start:end].decode()

    def _operand(self, node: ast.AST) -> str:
        """Return the text of an expression, in brackets unless it needs none."""
        alone = (
            ast.Name,
            ast.Attribute,
            ast.Call,
            ast.Subscript,
            ast.Constant,
            ast.Tuple,
            ast.List,
        )
        text = self._text(node)
        bracketed = isinstance(node, ast.Tuple) and text.startswith("(")
        return (
            text
            if isinstance(node, alone) and (bracketed or type(node) is not ast.Tuple)
            else (f"({text})")
        )

    def _replace(self, node: ast.AST, new: str) -> None:
        self._splice(node, [(self._span(node), new)])

    def _exchange(self, within: ast.AST, a: ast.AST, b: ast.AST) -> None:
        if self._text(a) != self._text(b):
            self._splice(within, [(self._span(a), self._text(b)), (self._span(b), self._text(a))])

    def _splice(
        self, within: ast.AST, edits: list[tuple[tuple[int, int], str]], name: str = ""
    ) -> None:
        """Record a change of one or two places of `within`, which gives it its name."""
        start, end = self._span(within)
        new = b""
        at = start
        for (a, b), text in sorted(edits):
            new += self.bytes[at:a] + text.encode()
            at = b
        new += self.bytes[at:end]
        whole = self.bytes[:start] + new + self.bytes[end:]
        old = self.bytes[start:end]
        if not name:
            before, after = _shortened(_one_line(old.decode()), _one_line(new.decode()))
            name = f"`{before}` -> `{after}`"
        first = min(a for (a, _), _ in edits)
        line = sum(1 for begin in self.lines if begin <= first)
        self.changes.append((line, len(self.changes), f"line {line}: {name}", whole.decode()))

    def _gap(self, left: ast.AST, right: ast.AST, symbol: str) -> tuple[int, int] | None:
        """Find the operator between two operands, brackets and line breaks around it."""
        start = self._span(left)[1]
        end = self._span(right)[0]
        at = self.bytes.find(symbol.encode(), start, end)
        return None if at < 0 else (at, at + len(symbol))

    # --------------------------------------------------------------------------------- expressions

    def _BinOp(self, node: ast.BinOp) -> None:
        symbol, *others = OPERATORS.get(type(node.op), ("",))
        if symbol and (place := self._gap(node.left, node.right, symbol)):
            for other in others:
                self._splice(node, [(place, other)])
        self._replace(node, self._operand(node.left))
        if isinstance(node.op, ast.Sub):
            self._replace(node, f"(-{self._operand(node.right)})")
        elif isinstance(node.op, (ast.Add, ast.Mult, ast.MatMult, ast.BitAnd, ast.BitOr)):
            self._replace(node, self._operand(node.right))
        if isinstance(node.op, (ast.Sub, ast.Div, ast.FloorDiv, ast.MatMult)):
            left = self._operand(node.left)
            right = self._operand(node.right)
            self._replace(node, f"({right} {symbol} {left})")

    def _UnaryOp(self, node: ast.UnaryOp) -> None:
        if not isinstance(node.operand, ast.Constant):
            self._replace(node, self._operand(node.operand))

    def _BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in itertools.pairwise(node.values):
            if place := self._gap(left, right, old):
                self._splice(node, [(place, new)])
        for value in node.values:
            if len(node.values) == 2:
                self._replace(node, self._operand(value))

    def _Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for (left, right), op in zip(itertools.pairwise(operands), node.ops, strict=True):
            symbol, *others = COMPARISONS[type(op)]
            if place := self._gap(left, right, symbol):
                for other in others:
                    self._splice(node, [(place, other)])

    def _IfExp(self, node: ast.IfExp) -> None:
        self._replace(node, self._operand(node.body))
        self._replace(node, self._operand(node.orelse))

    def _Constant(self, node: ast.Constant) -> None:
        parent = self.parents.get(node)
        if isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.USub):
            node, value = parent, -node.value
        else:
            value = node.value
        if isinstance(value, bool):
            self._number(node, [str(not value)])
        elif isinstance(value, int):
            self._number(node, [str(v) for v in dict.fromkeys((value + 1, value - 1, -value))])
        elif isinstance(value, float):
            self._number(node, [repr(float(f"{v:.12g}")) for v in (value * 2, -value, value / 10)])
        elif isinstance(value, str):
            self._word(node, value)

    def _number(self, node: ast.AST, values: list[str]) -> None:
        """Replace a number; its name shows what it stands in."""
        within = self.parents[node]
        if isinstance(within, (ast.stmt, ast.arguments)) or not hasattr(within, "lineno"):
            within = node
        for value in values:
            power = isinstance(within, ast.BinOp) and isinstance(within.op, ast.Pow)
            text = f"({value})" if value.startswith("-") and power else value
            self._splice(within, [(self._span(node), text)])

    def _word(self, node: ast.Constant, value: str) -> None:
        if value in WORDS:
            self._replace(node, f'"{WORDS[value]}"')
        if "->" in value and "\n" not in value:
            for pattern in _patterns(value):
                self._replace(node, f'"{pattern}"')

    def _Call(self, node: ast.Call) -> None:
        callee = node.func
        if isinstance(callee, ast.Attribute):
            receiver = callee.value
            name = callee.attr
            if not (isinstance(receiver, ast.Name) and receiver.id in LIBRARIES):
                self._replace(node, self._operand(receiver))
        else:
            name = callee.id if isinstance(callee, ast.Name) else ""
        if name in NAMES:
            end = self._span(callee)[1]
            self._splice(node, [((end - len(name.encode()), end), NAMES[name])])
        is_method = isinstance(callee, ast.Attribute) and not (
            isinstance(callee.value, ast.Name) and callee.value.id in LIBRARIES
        )
        arguments = [a for a in node.args if not isinstance(a, ast.Starred)]
        if arguments and not is_method and not isinstance(arguments[0], ast.Constant):
            self._replace(node, self._operand(arguments[0]))
        for a, b in itertools.pairwise(node.args):
            plain = not isinstance(a, ast.Starred) and not isinstance(b, ast.Starred)
            if plain and name not in SYMMETRIC:
                self._exchange(node, a, b)
        for a, b in itertools.pairwise(node.keywords):
            if a.arg and b.arg:
                self._exchange(node, a.value, b.value)
        if len(node.args) > (0 if is_method else 1) and name != "to":
            self._drop(node, node.args[-1])
        for keyword in node.keywords:
            if keyword.arg != "strict":
                self._drop(node, keyword)

    def _drop(self, call: ast.Call, argument: ast.AST) -> None:
        """Leave out one argument of a call, with the comma beside it."""
        start, end = self._span(argument)
        opening = self._span(call.func)[1]
        before = self.bytes[opening:start].rstrip()
        if before.endswith(b","):
            start = opening + len(before) - 1
        else:
            rest = re.match(rb"\s*,\s*", self.bytes[end:])
            end += len(rest.group()) if rest else 0
        self._splice(call, [((start, end), "")])

    def _Attribute(self, node: ast.Attribute) -> None:
        if node.attr in ("mT", "T", "mH"):
            self._replace(node, self._operand(node.value))

    def _Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Load):
            self._replace(node, self._operand(node.value))

    def _Slice(self, node: ast.Slice) -> None:
        if node.step:
            return
        lower = self._text(node.lower) if node.lower else ""
        upper = self._text(node.upper) if node.upper else ""
        within = self.parents[node]
        within = self.parents[within] if isinstance(within, ast.Tuple) else within
        choices = {":"}
        if lower and not upper:
            choices |= {f":{lower}", f":-{self._operand(node.lower)}"}
        elif upper and not lower:
            choices |= {f"{upper}:", f"-{self._operand(node.upper)}:"}
            if upper.startswith("-"):
                choices.add(f"{upper[1:]}:")
        elif lower and upper:
            choices |= {f"{lower}:", f":{upper}"}
        for choice in sorted(choices - {self._text(node)}):
            self._splice(within, [(self._span(node), choice)])

    def _Tuple(self, node: ast.Tuple | ast.List) -> None:
        for a, b in itertools.pairwise(node.elts):
            self._exchange(node, a, b)

    _List = _Tuple

    def _Name(self, node: ast.Name) -> None:
        """Put another argument of the same type in its place, as the task writes the types."""
        function = self._function(node)
        if function is None or not isinstance(node.ctx, ast.Load):
            return
        types = {
            a.arg: self._text(a.annotation) if a.annotation else ""
            for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        }
        within = self.parents[node]
        if isinstance(within, ast.stmt) or not hasattr(within, "lineno"):
            within = node
        for other, annotation in types.items():
            if annotation and other != node.id and types.get(node.id) == annotation:
                self._splice(within, [(self._span(node), other)])

    # ---------------------------------------------------------------------------------- statements

    def _function(self, node: ast.AST) -> ast.FunctionDef | None:
        while node in self.parents:
            node = self.parents[node]
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                return node
        return None

    def _FunctionDef(self, node: ast.FunctionDef) -> None:
        for decorator in node.decorator_list:
            if "no_grad" in self._text(decorator) or "inference_mode" in self._text(decorator):
                start, end = self._span(decorator)
                start = self.bytes.rindex(b"@", 0, start)
                self._splice(
                    decorator, [((start, end), "")], f"`@{self._text(decorator)}` left out"
                )

    def _With(self, node: ast.With) -> None:
        last = node.items[-1].optional_vars or node.items[-1].context_expr
        if not any(item.optional_vars for item in node.items):
            start = self._span(node)[0]
            end = self._span(last)[1]
            old = _one_line(self.bytes[start:end].decode())
            self._splice(node, [((start, end), "if True")], f"`{old}` left out")

    def _If(self, node: ast.If) -> None:
        for value in ("True", "False"):
            self._splice(
                node,
                [(self._span(node.test), value)],
                f"`if {_one_line(self._text(node.test))}` -> `if {value}`",
            )

    def _comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._replace(test, "True")

    def _without(self, node: ast.stmt) -> None:
        text = _one_line(self._text(node))
        self._splice(node, [(self._span(node), "pass")], f"`{_shortened(text, text)[0]}` left out")

    def _Expr(self, node: ast.Expr) -> None:
        if not _is_text(node):
            self._without(node)

    def _Assign(self, node: ast.Assign) -> None:
        """Leave out an assignment to what exists already."""
        stored = [
            t.id
            for target in node.targets
            for t in ast.walk(target)
            if isinstance(t, ast.Name) and isinstance(t.ctx, ast.Store)
        ]
        if all(name in self._known(node) for name in stored):
            self._without(node)

    def _AugAssign(self, node: ast.AugAssign) -> None:
        symbol, *others = OPERATORS.get(type(node.op), ("",))
        if symbol and (place := self._gap(node.target, node.value, symbol)):
            for other in others:
                self._splice(node, [(place, other)])
        self._without(node)

    def _Continue(self, node: ast.stmt) -> None:
        self._without(node)

    _Break = _Continue

    def _known(self, node: ast.AST) -> list[str]:
        """Return the names that are bound before a statement: parameters and earlier targets."""
        function = self._function(node)
        if function is None:
            return []
        arguments = function.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        for other in ast.walk(function):
            stored = isinstance(other, ast.Name) and isinstance(other.ctx, ast.Store)
            if stored and other.lineno < node.lineno and other.id not in names:
                names.append(other.id)
        return names

    def _Return(self, node: ast.Return) -> None:
        if isinstance(node.value, ast.Name):
            for name in self._known(node):
                if name != node.value.id:
                    self._splice(
                        node,
                        [(self._span(node.value), name)],
                    )


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_check(node: ast.AST) -> bool:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    callee = node.value.func
    name = callee.attr if isinstance(callee, ast.Attribute) else getattr(callee, "id", "")
    return name.startswith(CHECKS)


def _is_guard(node: ast.If) -> bool:
    return not node.orelse and all(isinstance(part, ast.Raise) for part in node.body)


def _one_line(text: str) -> str:
    text = re.sub(r"  #.*", "", text)
    return re.sub(r"(?<=[(\[{]) | (?=[)\]}])", "", " ".join(text.split())).replace(",)", ")")


def _shortened(old: str, new: str) -> tuple[str, str]:
    """Cut what two long texts share, far from where they differ."""
    if max(len(old), len(new)) <= LONGEST:
        return old, new
    if old == new:
        return f"{old[:LONGEST]}...", f"{new[:LONGEST]}..."
    start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
    tail = 0
    limit = min(len(old), len(new)) - start
    while tail < limit and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    begin = max(0, start - LONGEST // 3)
    keep = max(0, tail - LONGEST // 3)
    head = "..." if begin else ""
    foot = "..." if keep else ""
    return (
        f"{head}{old[begin : len(old) - keep]}{foot}",
        f"{head}{new[begin : len(new) - keep]}{foot}",
    )


def _patterns(pattern: str) -> Iterator[str]:
    """Exchange two axes of one side of an einops pattern; on the left within one bracket only."""
    left, right = pattern.split("->")
    for before, after, side in ((f"{left}->", "", right), ("", f"->{right}", left)):
        names = [m for m in re.finditer(r"[a-z_]\w*", side)]
        for a, b in itertools.combinations(names, 2):
            inside = "(" not in side[a.end() : b.start()] and ")" not in side[a.end() : b.start()]
            bracketed = inside and side[: a.start()].count("(") > side[: a.start()].count(")")
            if (side is right or bracketed) and a.group() != b.group():
                changed = (
                    side[: a.start()]
                    + b.group()
                    + side[a.end() : b.start()]
                    + a.group()
                    + side[b.end() :]
                )
                yield before + changed + after

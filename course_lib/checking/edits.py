"""A wrong answer as an edit of the reference's own text: what is written is the slip itself.

    edit(" / math.sqrt(q.shape[-1])", "")                       in one place
    edit("x + attend(x)", "attend(x)", "x + mlp(x)", "mlp(x)")  in two
    edit("(heads d)", "(d heads)", of=vit.split_heads)          in a function it calls

Nothing is read or compiled before the answer is asked for.
"""

import __future__

import ast
import difflib
import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

FUTURE_FLAGS = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)


@dataclass(frozen=True)
class Edit:
    """Pairs of an old and a new text, and the function whose text they change.

    of: a function that the reference calls; None for the reference itself.
    """

    pairs: tuple[tuple[str, str], ...]
    of: Callable | None = None

    def answer(self, reference: Callable) -> Callable:
        """Compile `reference` with the edit in it.

        It keeps the names of its module.  It is not type-checked: it may be wrong in its types.
        Raises ValueError where an old text does not occur exactly once, or where the reference does
        not call `of`.
        """
        if self.of is None:
            return _compile(self._edited(reference), reference, _names(reference))
        slip = _compile(self._edited(self.of), self.of, _names(self.of))
        names = _with(slip, self.of, reference)
        return _compile(_source(reference), reference, names)

    def diff(self, reference: Callable) -> str:
        """Return the changed lines, old ones after "-" and new ones after "+", without headers."""
        before = _source(self.of or reference)
        after = self._edited(self.of or reference)
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
        return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))

    def _edited(self, function: Callable) -> str:
        source = _source(function)
        places = sorted((_only_place(source, old, function), old, new) for old, new in self.pairs)
        edited = ""
        end = 0
        for start, old, new in places:
            if start < end:
                raise ValueError(
                    f"edit of {_full_name(function)}: {old!r} overlaps another old text"
                )
            edited += source[end:start] + new
            end = start + len(old)
        return edited + source[end:]


def edit(old: str, new: str, *more: str, of: Callable | None = None) -> Edit:
    """Declare the reference with `old` replaced by `new`, and likewise each further pair.

    Each old text occurs exactly once in the function's source.  of: a function that the reference
    calls and that is edited in its place.  Raises ValueError for a text without its partner and for
    a pair that changes nothing.
    """
    texts = (old, new, *more)
    if len(texts) % 2:
        raise ValueError(f"edit: expected pairs of old and new, got {len(texts)} texts")
    pairs = tuple(zip(texts[::2], texts[1::2], strict=True))
    for before, after in pairs:
        if not before or before == after:
            raise ValueError(
                f"edit: expected a text and a different one, got {before!r}, {after!r}"
            )
    return Edit(pairs, of)


def _only_place(source: str, old: str, function: Callable) -> int:
    count = source.count(old)
    if count != 1:
        raise ValueError(
            f"edit of {_full_name(function)}: expected exactly one {old!r} in its source,"
            f" got {count}"
        )
    return source.index(old)


def _with(slip: Callable, callee: Callable, reference: Callable) -> dict[str, Any]:
    """Return the names that `reference` uses, with `slip` wherever it names `callee`.

    It may name it directly or as an attribute of a module.  Raises ValueError if it does not.
    """
    names = dict(_names(reference))
    found = False
    for node in ast.walk(ast.parse(_source(reference))):
        if isinstance(node, ast.Name) and _names(reference).get(node.id) is callee:
            names[node.id] = slip
            found = True
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = _names(reference).get(node.value.id)
            if isinstance(module, ModuleType) and getattr(module, node.attr, None) is callee:
                changed = {**vars(names[node.value.id]), node.attr: slip}
                names[node.value.id] = SimpleNamespace(**changed)
                found = True
    if not found:
        raise ValueError(
            f"edit: expected a function that {_full_name(reference)} calls, got"
            f" of={_full_name(callee)}"
        )
    return names


def _source(function: Callable) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        raise ValueError(
            f"edit: expected a function or class with a source file, got {function!r}"
        ) from None


def _names(function: Callable) -> dict[str, Any]:
    return vars(sys.modules[function.__module__])


def _full_name(function: Callable) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _compile(source: str, function: Callable, names: dict[str, Any]) -> Callable:
    """Execute the source of a function or class among these names, which stay as they are."""
    flags = getattr(inspect.unwrap(function), "__code__", None)
    code = compile(
        source,
        f"<edit of {_full_name(function)}>",
        "exec",
        flags=flags.co_flags & FUTURE_FLAGS if flags else 0,
        dont_inherit=True,
    )
    defined: dict[str, Any] = {}
    exec(code, names, defined)
    return defined[function.__name__]

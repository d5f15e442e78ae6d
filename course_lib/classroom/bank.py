"""Quiz banks: the YAML schema and its validation, what an answer is worth, and the texts' markup.

An answer has the form in which assets/quiz.js saves it, and is right by the same rule: a list of
option indices for a choice, a number, or a list of all item indices in the student's order.  It may
come from a file that anyone can edit, so every method that takes one raises ValueError for another
form.
"""

import hashlib
import html
import json
import random
import re
import reprlib
import sys
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from course_lib.paths import QUIZZES

Text = Annotated[str, Field(min_length=1)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+([-_][a-z0-9]+)*$")]


class Strict(BaseModel):
    """A record with exactly these fields: a misspelt one is an error, and no text is a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, strict=True)


class Option(Strict):
    text: Text
    feedback: Text
    correct: bool = False


class Item(Strict):
    text: Text
    feedback: Text


class Choice(Strict):
    """A question with options: `single` has exactly one correct one, `multiple` at least one."""

    id: Slug
    kind: Literal["single", "multiple"]
    prompt: Text
    source: Text
    options: Annotated[list[Option], Field(min_length=2)]

    @model_validator(mode="after")
    def has_right_number_of_correct_options(self) -> "Choice":
        correct = sum(option.correct for option in self.options)
        if self.kind == "single" and correct != 1:
            raise ValueError(f"expected exactly one correct option, got {correct}")
        if self.kind == "multiple" and correct < 1:
            raise ValueError("expected at least one correct option, got 0")
        return self

    @field_validator("options")
    @classmethod
    def texts_differ(cls, options: list[Option]) -> list[Option]:
        return _all_different(options, "option")

    def is_right(self, answer: object) -> bool:
        """Say whether exactly the correct options are chosen."""
        correct = {i for i, option in enumerate(self.options) if option.correct}
        return self._chosen(answer) == correct

    def in_words(self, answer: object) -> str:
        """Return the chosen options as plain text, in the bank's order."""
        return _listed([self.options[i] for i in sorted(self._chosen(answer))])

    def feedback_on(self, answer: object) -> str:
        """Return what the bank says against the answer, as plain text; "" when it is right.

        Wrong options get their feedback; of the missing ones only the number is given, as on the
        page.
        """
        chosen = self._chosen(answer)
        wrong = [self.options[i] for i in sorted(chosen) if not self.options[i].correct]
        if self.kind == "single":
            return "".join(plain(option.feedback) for option in wrong)
        comments = [_comment(option) for option in wrong]
        missing = sum(option.correct for i, option in enumerate(self.options) if i not in chosen)
        if missing:
            verb = "belongs" if missing == 1 else "belong"
            comments.append(f"{missing} more {verb} to the answer.")
        return " ".join(comments)

    def _chosen(self, answer: object) -> set[int]:
        chosen = _indices(answer, len(self.options))
        if not chosen:
            raise ValueError("expected at least one option, got none")
        if self.kind == "single" and len(chosen) > 1:
            raise ValueError(f"expected one option, got {len(chosen)}")
        return set(chosen)


class Numeric(Strict):
    """A number, right when it is within `tolerance` of `answer`."""

    id: Slug
    kind: Literal["numeric"]
    prompt: Text
    source: Text
    answer: float
    tolerance: Annotated[float, Field(gt=0)]
    unit: str = ""
    feedback_right: Text
    feedback_wrong: Text

    def is_right(self, answer: object) -> bool:
        """Say whether the number is within the tolerance.

        A little slack makes 0.3 count as within 0.1 of 0.2.
        """
        return abs(_number(answer) - self.answer) <= self.tolerance * (1 + 1e-9)

    def in_words(self, answer: object) -> str:
        """Return the number in full, with its unit."""
        number = repr(_number(answer)).removesuffix(".0")
        return f"{number} {plain(self.unit)}".strip()

    def feedback_on(self, answer: object) -> str:
        """Return what the bank says against the answer, as plain text; "" when it is right."""
        return "" if self.is_right(answer) else plain(self.feedback_wrong)


class Ordering(Strict):
    """Items to be put in order; the bank lists them in the right order."""

    id: Slug
    kind: Literal["ordering"]
    prompt: Text
    source: Text
    items: Annotated[list[Item], Field(min_length=3)]

    @field_validator("items")
    @classmethod
    def texts_differ(cls, items: list[Item]) -> list[Item]:
        return _all_different(items, "item")

    def start(self) -> list[int]:
        """Return the order in which the items are first shown: always the same, never right."""
        order = list(range(len(self.items)))
        shuffle = random.Random(self.id).shuffle
        while order == sorted(order):
            shuffle(order)
        return order

    def is_right(self, answer: object) -> bool:
        """Say whether every item is in its place."""
        order = self._order(answer)
        return order == sorted(order)

    def in_words(self, answer: object) -> str:
        """Return the items as plain text, in the student's order."""
        return _listed([self.items[i] for i in self._order(answer)])

    def feedback_on(self, answer: object) -> str:
        """Return the feedback on the items out of place, in the student's order, as plain text."""
        misplaced = [i for place, i in enumerate(self._order(answer)) if i != place]
        return " ".join(_comment(self.items[i]) for i in misplaced)

    def _order(self, answer: object) -> list[int]:
        order = _indices(answer, len(self.items))
        if len(order) < len(self.items):
            raise ValueError(f"expected all {len(self.items)} items, got {len(order)}")
        return order


class Flashcard(Strict):
    id: Slug
    front: Text
    back: Text
    source: Text


Question = Annotated[Choice | Numeric | Ordering, Field(discriminator="kind")]


class Bank(Strict):
    """One topic's questions and flashcards."""

    topic: Slug
    title: Text
    questions: Annotated[list[Question], Field(min_length=1)]
    flashcards: list[Flashcard] = []

    @model_validator(mode="after")
    def ids_are_unique(self) -> "Bank":
        ids = [entry.id for entry in [*self.questions, *self.flashcards]]
        repeated = sorted({i for i in ids if ids.count(i) > 1})
        if repeated:
            raise ValueError(
                f"expected every id once, got more than one of {', '.join(map(repr, repeated))}"
            )
        return self


def load_bank(topic: str, folder: Path = QUIZZES) -> Bank:
    """Read and validate `folder/<topic>.yaml`.

    Raises ValueError naming the file, the question and what was expected, and for an unknown topic
    the topics that exist.
    """
    path = folder / f"{topic}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none yet"
        raise ValueError(f"no quiz in {folder}: expected one of {known}, got {topic!r}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as the 45th of a month
        why = " ".join(str(error).split())
        raise ValueError(f"{path.name}: expected YAML, got what is not YAML: {why}") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{path.name}: expected topic, title, questions; got {type(content).__name__}"
        )
    try:
        bank = Bank.model_validate(content)
    except ValidationError as error:
        lines = [_explain(path.name, content, problem) for problem in error.errors()]
        raise ValueError("\n".join(lines)) from None
    if bank.topic != topic:
        raise ValueError(f"{path.name}: expected topic: {topic}, got {bank.topic!r}")
    return bank


def digest(entry: Choice | Numeric | Ordering | Flashcard) -> str:
    """Return 12 hexadecimal digits that change whenever anything in the entry does.

    They are saved with every answer to it.
    """
    text = json.dumps(entry.model_dump(), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def rich(text: str) -> str:
    """Turn the light markup into HTML: **bold**, *italic*, `code`, line breaks; escape the rest."""
    parts = re.split(r"(`[^`]+`)", html.escape(text, quote=False))
    return "".join(
        f"<code>{p[1:-1]}</code>" if len(p) > 2 and p[0] == "`" else _marks(p) for p in parts
    )


def plain(text: str) -> str:
    """Return the text without its markup."""
    return html.unescape(re.sub(r"<[^>]*>", "", rich(text).replace("<br>", "\n")))


def _marks(text: str) -> str:
    text = re.sub(r"\*\*(\S(?:.*?\S)?)\*\*", r"<strong>\1</strong>", text)
    text = re.sub(r"\*(\S(?:.*?\S)?)\*", r"<em>\1</em>", text)
    return text.replace("\n", "<br>")


def _all_different(entries: list, name: str) -> list:
    texts = [entry.text for entry in entries]
    if len(set(texts)) < len(texts):
        raise ValueError(f"expected every {name} to read differently, got one twice")
    return entries


def _indices(answer: object, count: int) -> list[int]:
    """Return the answer if it is a list of different indices below `count`; a bool is none."""
    valid = isinstance(answer, list) and all(type(i) is int and 0 <= i < count for i in answer)
    if not valid or len(set(answer)) < len(answer):
        raise ValueError(
            f"expected a list of different whole numbers from 0 to {count - 1}, got {_show(answer)}"
        )
    return answer


def _number(answer: object) -> float:
    """Return the answer if it is a finite number that a float can hold; a bool is none."""
    if type(answer) not in (int, float) or not abs(answer) <= sys.float_info.max:
        raise ValueError(f"expected a finite number, got {_show(answer)}")
    return float(answer)


def _show(value: object) -> str:
    """Return a short repr of a value of any kind and size."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to print a very long int
        return f"a very long {type(value).__name__}"


def _listed(entries: list[Option] | list[Item]) -> str:
    """Join the texts in one line; a full stop before a semicolon would read badly."""
    return "; ".join(plain(entry.text).removesuffix(".") for entry in entries)


def _comment(entry: Option | Item) -> str:
    return f'On "{plain(entry.text)}": {plain(entry.feedback)}'


def _explain(file: str, content: dict, error: dict) -> str:
    """Say in one line which file, question and field, what was expected and what was got."""
    where = [
        part for part in error["loc"] if part not in ("single", "multiple", "numeric", "ordering")
    ]
    name = ""
    if len(where) >= 2 and where[0] in ("questions", "flashcards") and isinstance(where[1], int):
        entry = content[where[0]][where[1]]
        label = entry.get("id") if isinstance(entry, dict) else None
        name = f", {where[0][:-1]} {where[1] + 1}" + (f" ({label})" if label else "")
        where = where[2:]
    field = ".".join(str(part + 1) if isinstance(part, int) else part for part in where)
    message = error["msg"].removeprefix("Value error, ")
    got = error.get("input")
    plain_value = isinstance(got, str | int | float | bool)
    ending = f", got {got!r}" if plain_value and "got" not in message else ""
    return f"{file}{name}: {field + ': ' if field else ''}{message}{ending}"

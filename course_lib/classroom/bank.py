"""Quiz banks: the YAML schema, its validation, and the light markup of its texts."""

import html
import random
import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from course_lib.paths import QUIZZES

Text = Annotated[str, Field(min_length=1)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+([-_][a-z0-9]+)*$")]


class Strict(BaseModel):
    """A record with exactly these fields: a misspelt one is an error, and a number is never a string."""

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
    def has_right_number_of_correct_options(self):
        correct = sum(option.correct for option in self.options)
        if self.kind == "single" and correct != 1:
            raise ValueError(f"expected exactly one correct option, got {correct}")
        if self.kind == "multiple" and correct < 1:
            raise ValueError("expected at least one correct option, got 0")
        return self

    @field_validator("options")
    @classmethod
    def texts_differ(cls, options):
        return _all_different(options, "option")


class Numeric(Strict):
    """A number: right when it lies within `tolerance` of `answer`."""

    id: Slug
    kind: Literal["numeric"]
    prompt: Text
    source: Text
    answer: float
    tolerance: Annotated[float, Field(gt=0)]
    unit: str = ""
    feedback_right: Text
    feedback_wrong: Text


class Ordering(Strict):
    """Items to be put in order; the bank lists them in the right one."""

    id: Slug
    kind: Literal["ordering"]
    prompt: Text
    source: Text
    items: Annotated[list[Item], Field(min_length=3)]

    @field_validator("items")
    @classmethod
    def texts_differ(cls, items):
        return _all_different(items, "item")

    def start(self) -> list[int]:
        """The order in which the items are first shown: always the same, never the right one."""
        order = list(range(len(self.items)))
        shuffle = random.Random(self.id).shuffle
        while order == sorted(order):
            shuffle(order)
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
    def ids_are_unique(self):
        ids = [entry.id for entry in [*self.questions, *self.flashcards]]
        repeated = sorted({i for i in ids if ids.count(i) > 1})
        if repeated:
            raise ValueError(f"expected every id once, got more than one of {', '.join(map(repr, repeated))}")
        return self


def load_bank(topic: str, folder: Path = QUIZZES) -> Bank:
    """Read and validate `folder/<topic>.yaml`.

    Raises ValueError naming the file, the question and what was expected; an unknown topic is answered
    with the topics that exist.
    """
    path = folder / f"{topic}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none yet"
        raise ValueError(f"no quiz {topic!r} in {folder}: expected one of {known}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name}: expected topic, title, questions; got {type(content).__name__}")
    try:
        bank = Bank.model_validate(content)
    except ValidationError as error:
        raise ValueError("\n".join(_explain(path.name, content, e) for e in error.errors())) from None
    if bank.topic != topic:
        raise ValueError(f"{path.name}: expected topic: {topic}, got {bank.topic!r}")
    return bank


def rich(text: str) -> str:
    """HTML of the light markup: **bold**, *italic*, `code` and line breaks; all else is escaped."""
    parts = re.split(r"(`[^`]+`)", html.escape(text, quote=False))
    return "".join(f"<code>{p[1:-1]}</code>" if len(p) > 2 and p[0] == "`" else _marks(p) for p in parts)


def plain(text: str) -> str:
    """The text without its markup."""
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


def _explain(file: str, content: dict, error: dict) -> str:
    """One line: file, question, field, what was expected, what came."""
    where = [part for part in error["loc"] if part not in ("single", "multiple", "numeric", "ordering")]
    name = ""
    if len(where) >= 2 and where[0] in ("questions", "flashcards") and isinstance(where[1], int):
        entry = content[where[0]][where[1]]
        label = entry.get("id") if isinstance(entry, dict) else None
        name = f", {where[0][:-1]} {where[1] + 1}" + (f" ({label})" if label else "")
        where = where[2:]
    field = ".".join(str(part + 1) if isinstance(part, int) else part for part in where)
    message = error["msg"].removeprefix("Value error, ")
    got = error.get("input")
    came = f", got {got!r}" if isinstance(got, str | int | float | bool) and "got" not in message else ""
    return f"{file}{name}: {field + ': ' if field else ''}{message}{came}"

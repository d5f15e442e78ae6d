"""The quiz and the flashcards a notebook shows."""

from typing import Any

import traitlets

from course_lib.classroom.bank import Bank, Flashcard, Question, digest, load_bank, rich
from course_lib.classroom.bridge import Linked, module
from course_lib.classroom.progress import record_quiz
from course_lib.classroom.state import load_state, save_state

TEXTS = (
    "prompt",
    "source",
    "text",
    "feedback",
    "feedback_right",
    "feedback_wrong",
    "unit",
    "front",
    "back",
)


def quiz(topic: str) -> None:
    """Show the quiz of a topic; answers and score are kept and come back when the cell runs again.

    Raises ValueError when the topic has no bank or the bank is not valid.
    """
    QuizWidget(load_bank(topic)).show()


def flashcards(topic: str) -> None:
    """Show the flashcards of a topic: turn one with Space, sort it with "I knew it" or "Again"."""
    bank = load_bank(topic)
    if not bank.flashcards:
        raise ValueError(f"the bank {topic!r} has no flashcards")
    DeckWidget(bank).show()


class QuizWidget(Linked):
    """A bank's questions: the page draws and scores them, the kernel saves the results."""

    _esm = traitlets.Unicode(module("quiz")).tag(sync=True)
    mode = "quiz"

    def __init__(self, bank: Bank):
        self.bank = bank
        self.entries = self.choose(bank)
        # An answer is saved with a digest of its question, and dropped if the question changes.
        self.digests = {entry.id: digest(entry) for entry in self.entries}
        super().__init__(self.describe(bank))

    def choose(self, bank: Bank) -> list:
        return bank.questions

    def describe(self, bank: Bank) -> dict:
        return {
            "mode": "quiz",
            "title": bank.title,
            "questions": [_drawable(q) for q in bank.questions],
        }

    def answer(self, message: dict) -> dict | None:
        if message.get("type") == "hello":
            return {"type": "welcome", "results": self.saved()}
        if message.get("type") == "save":
            return {"type": "saved", "note": self.save(message["results"], message["score"])}
        return None

    def saved(self) -> dict:
        """Return what was saved for the entries that have not changed since, by id."""
        results = {}
        for id, stored in load_state(f"{self.mode}-{self.bank.topic}").items():
            same = isinstance(stored, dict) and stored.get("digest") == self.digests.get(id, "")
            if same and "result" in stored:
                results[id] = stored["result"]
        return results

    def save(self, results: dict, score: int) -> str:
        """Save the results of known entries and record the score.

        Returns "" or a sentence on why that failed.
        """
        known = {}
        for id, result in results.items():
            if id in self.digests:
                known[id] = {"digest": self.digests[id], "result": result}
        try:
            save_state(f"{self.mode}-{self.bank.topic}", known)
        except OSError as error:
            return f"Not saved: {error}"
        return self.report(score)

    def report(self, score: int) -> str:
        """Record the score in progress.json; return "" or a sentence on why it was not saved."""
        return record_quiz(self.bank.topic, float(score), float(len(self.entries)))

    def caption(self) -> str:
        return (
            f"Quiz: {self.bank.title}, {len(self.entries)} questions. Run this cell to answer it."
        )

    def fallback(self) -> str:
        questions = "\n".join(f"<li>{_readable(q)}</li>" for q in self.bank.questions)
        note = "<p><em>Run this cell to answer here.</em></p>"
        return f"<h4>Quiz: {rich(self.bank.title)}</h4>\n{note}\n<ol>\n{questions}\n</ol>"


class DeckWidget(QuizWidget):
    """A bank's flashcards; those marked as known are saved."""

    mode = "cards"

    def choose(self, bank: Bank) -> list:
        return bank.flashcards

    def describe(self, bank: Bank) -> dict:
        return {
            "mode": "cards",
            "title": bank.title,
            "flashcards": [_drawable(c) for c in bank.flashcards],
        }

    def report(self, score: int) -> str:
        """Record nothing: cards are practice and give no points."""
        return ""

    def caption(self) -> str:
        return (
            f"Flashcards: {self.bank.title}, {len(self.entries)} cards. Run this cell to turn them."
        )

    def fallback(self) -> str:
        cards = "\n".join(
            f"<li>{_folded(rich(c.front), rich(c.back), c)}</li>" for c in self.entries
        )
        return f"<h4>Flashcards: {rich(self.bank.title)}</h4>\n<ol>\n{cards}\n</ol>"


def _drawable(entry: Question | Flashcard) -> dict:
    """Return the entry as the page draws it, every text as escaped HTML."""
    drawn = _texts_to_html(entry.model_dump())
    if drawn.get("kind") == "ordering":
        drawn["start"] = entry.start()
    return drawn


def _texts_to_html(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts_to_html(v) for v in value]
    if isinstance(value, dict):
        return {k: rich(v) if k in TEXTS else _texts_to_html(v) for k, v in value.items()}
    return value


def _readable(question: Question) -> str:
    """Write the question as plain HTML, its answer folded away."""
    prompt = f"<p>{rich(question.prompt)}</p>"
    if question.kind == "numeric":
        answer = f"{question.answer:g} {rich(question.unit)}. {rich(question.feedback_right)}"
        return prompt + _folded("Answer", answer, question)
    if question.kind == "ordering":
        shown = [question.items[i] for i in question.start()]
        items = "".join(f"<li>{rich(i.text)}: {rich(i.feedback)}</li>" for i in question.items)
        answer = f"<ol>{items}</ol>"
    else:
        shown = question.options
        answer = " ".join(f"<p>{rich(o.text)}: {rich(o.feedback)}</p>" for o in shown if o.correct)
    listed = "<ul>" + "".join(f"<li>{rich(entry.text)}</li>" for entry in shown) + "</ul>"
    return prompt + listed + _folded("Answer", answer, question)


def _folded(summary: str, content: str, entry: Question | Flashcard) -> str:
    return (
        f"<details><summary>{summary}</summary>{content}"
        f" <small>({rich(entry.source)})</small></details>"
    )

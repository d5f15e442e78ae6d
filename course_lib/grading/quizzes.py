"""Quiz answers marked again from what the student chose: the score in the saved file is the
student's own word.
"""

from functools import cache

from course_lib.classroom.bank import Bank, Choice, Numeric, Ordering, digest, load_bank, plain
from course_lib.grading.records import QuestionMark, QuestionStatus, QuizMark

CHANGED = "The question has changed since it was answered; please answer it again."
MALFORMED = "The saved answer does not have the form that the quiz writes."


def mark_quiz(topic: str, stored: dict | None) -> QuizMark:
    """Mark a topic's saved answers; None means that the student handed in none.

    stored  {question id: {"digest": ..., "result": {"answer": ..., "right": ...}}}, as
    classroom/quiz.py saves
            it.  The student can edit it, so any value may be anything: none raises, and `right` is
            not looked at.

    Raises ValueError when the topic has no bank or the bank is not valid.
    """
    bank = _bank(topic)
    marks = tuple(_mark(question, stored or {}) for question in bank.questions)
    note = "no quiz answers were handed in" if stored is None else _count_unknown(bank, stored)
    return QuizMark(topic=topic, questions=marks, note=note)


@cache  # reading a bank takes far longer than marking one student with it
def _bank(topic: str) -> Bank:
    return load_bank(topic)


def _mark(question: Choice | Numeric | Ordering, stored: dict) -> QuestionMark:
    status, given, feedback = _judge(question, stored)
    prompt = plain(question.prompt)
    return QuestionMark(
        id=question.id, status=status, prompt=prompt, given=given, feedback=feedback
    )


def _judge(question: Choice | Numeric | Ordering, stored: dict) -> tuple[QuestionStatus, str, str]:
    """The status, the answer in words, and the feedback on it."""
    if question.id not in stored:
        return "not answered", "", ""
    match stored[question.id]:
        case {"digest": str(saved), "result": {"answer": answer}}:
            if saved != digest(question):
                return "changed", "", CHANGED
            try:
                status = "right" if question.is_right(answer) else "wrong"
                return status, question.in_words(answer), question.feedback_on(answer)
            except ValueError:
                pass
    return "wrong", "", MALFORMED


def _count_unknown(bank: Bank, stored: dict) -> str:
    """A note on saved answers that belong to no question, or ""."""
    unknown = len(stored.keys() - {question.id for question in bank.questions})
    if not unknown:
        return ""
    return (
        f"{unknown} saved {'answer belongs' if unknown == 1 else 'answers belong'} to no question"
        " of this quiz"
    )

"""Quiz answers marked again from what the student chose.

The score in the saved file counts for nothing, because the student can write anything there.
"""

from functools import cache

from course_lib.classroom.bank import Bank, Choice, Numeric, Ordering, digest, load_bank, plain
from course_lib.grading.records import QuestionMark, QuestionStatus, QuizMark

CHANGED = "The question has changed since it was answered; please answer it again."
MALFORMED = "The saved answer does not have the form that the quiz writes."


def mark_quiz(topic: str, stored: dict | None) -> QuizMark:
    """Mark a topic's saved answers; None means that the student handed in none.

    stored  {question id: {"digest": ..., "result": {"answer": ..., "right": ...}}}, as
            classroom/quiz.py saves it.  The student can edit it, so every value may be anything:
            none raises, and `right` is ignored.

    Raises ValueError when the topic has no bank or the bank is not valid.
    """
    bank = _bank(topic)
    questions = tuple(_mark_question(question, stored or {}) for question in bank.questions)
    note = ""
    if stored is None:
        note = "no quiz answers were handed in"
    elif unknown := len(stored.keys() - {question.id for question in bank.questions}):
        answers = "answer belongs" if unknown == 1 else "answers belong"
        note = f"{unknown} saved {answers} to no question of this quiz"
    return QuizMark(topic=topic, questions=questions, note=note)


@cache  # reading a bank takes far longer than marking one student with it
def _bank(topic: str) -> Bank:
    return load_bank(topic)


def _mark_question(question: Choice | Numeric | Ordering, stored: dict) -> QuestionMark:
    status, given, feedback = _result(question, stored)
    return QuestionMark(
        id=question.id,
        status=status,
        prompt=plain(question.prompt),
        given=given,
        feedback=feedback,
    )


def _result(question: Choice | Numeric | Ordering, stored: dict) -> tuple[QuestionStatus, str, str]:
    """Return the status, the answer in words, and the feedback on it."""
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

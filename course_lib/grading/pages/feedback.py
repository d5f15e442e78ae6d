"""The page handed back to one student."""

from collections.abc import Sequence

from course_lib.grading.pages.drawing import rect, sign, svg, titled
from course_lib.grading.pages.page import (
    code,
    counted,
    document,
    exercise_name,
    fold,
    heading,
    listed,
    number,
    prose,
    section,
    table,
    text,
    topics_of,
)
from course_lib.grading.records import ExerciseMark, Grade, QuestionMark, QuizMark


def feedback_page(grade: Grade) -> str:
    """The page handed back to one student: what was earned, and for every lost point what happened."""
    stories = {
        i: _exercise_story(i, mark) for i, mark in enumerate(grade.exercises) if _has_a_story(mark)
    }
    rows = [_exercise_row(i, mark, i in stories) for i, mark in enumerate(grade.exercises)]
    over = f"Feedback on {topics_of([grade])}"
    parts = [
        heading(over, f"<bdi>{text(grade.student)}</bdi>"),
        _total(grade),
        _notes(grade.notes),
        (
            section("Exercises", table(("Exercise", "Result", "Points"), rows, figures=1))
            if rows
            else ""
        ),
        section("What happened", "".join(stories.values())) if stories else "",
        *map(_quiz_story, grade.quizzes),
        f"<footer>Marked from {listed(map(code, grade.files))}.</footer>" if grade.files else "",
    ]
    return document(f"{grade.student}: {over}", "narrow", parts)


def _total(grade: Grade) -> str:
    """The total, large; and a segment for each exercise and quiz, as wide as its points, filled as
    far as earned.
    """
    passed = sum(mark.status == "passed" for mark in grade.exercises)
    exercises = (
        f"{passed} of {counted(len(grade.exercises), 'exercise')} passed" if grade.exercises else ""
    )
    quizzes = [
        f"{quiz.earned} of {counted(quiz.points, 'question')} right" for quiz in grade.quizzes
    ]
    segments = [(m.id, m.status, m.earned, m.points) for m in grade.exercises]
    segments += [(f"{q.topic} quiz", "passed", float(q.earned), q.points) for q in grade.quizzes]
    x, shapes = 0.0, []
    for name, status, earned, points in segments:
        width = 100 * points / max(grade.points, 1)
        filled = rect(x, width * earned / max(points, 1), status)
        shapes.append(
            titled(f"{name}: {number(earned)} of {points}", rect(x, width, "rest") + filled)
        )
        x += width
    title = f"{number(grade.earned)} of {counted(grade.points, 'point')}"
    desc = (
        "A segment for each exercise and quiz, as wide as its points, filled as far as they were"
        " earned."
    )
    return (
        f'<p class="total"><b>{number(grade.earned)}</b> of'
        f" {counted(grade.points, 'point')}</p>{svg('strip', title, shapes, desc)}<p"
        f' class="calm">{"; ".join(filter(None, [exercises, *quizzes]))}</p>'
    )


def _notes(notes: Sequence[str]) -> str:
    entries = "".join(f"<li>{prose(note)}</li>" for note in notes)
    return f"<aside><h2>Notes on what you handed in</h2><ul>{entries}</ul></aside>" if notes else ""


def _exercise_row(i: int, mark: ExerciseMark, has_story: bool) -> str:
    name = (
        f'<a href="#exercise-{i + 1}">{exercise_name(mark.id)}</a>'
        if has_story
        else exercise_name(mark.id)
    )
    points = f"{number(mark.earned)} of {mark.points}"
    return (
        f"<tr><th scope=row>{name}</th><td>{sign(mark.status)}"
        f" {mark.status}</td><td>{points}</td></tr>"
    )


def _has_a_story(mark: ExerciseMark) -> bool:
    return bool(mark.sentence or mark.shown or mark.lines or mark.printed or mark.notes)


def _exercise_story(i: int, mark: ExerciseMark) -> str:
    cases = (
        f", {mark.right} of {counted(mark.cases, 'case')} right"
        if mark.status in ("partly right", "wrong")
        else ""
    )
    points = f"{number(mark.earned)} of {counted(mark.points, 'point')}"
    stopped = "\n".join(f"{where}, line {line}:  {code}" for where, line, code in mark.lines)
    unfolded = "" if mark.status == "passed" else " open"
    parts = [
        f"<h3>{sign(mark.status)} {exercise_name(mark.id)}</h3>",
        f'<p class="calm">{mark.status}{cases}; {points}</p>',
        f'<p class="said">{prose(mark.sentence)}</p>' if mark.sentence else "",
        f'<p class="calm">Shown: {prose(mark.shown)}</p>' if mark.shown else "",
        f'<p class="label">In your code</p><pre>{text(stopped)}</pre>' if stopped else "",
        (
            fold("What your code printed", f"<pre>{text(mark.printed)}</pre>", unfolded)
            if mark.printed
            else ""
        ),
        *(f'<p class="note">{prose(note)}</p>' for note in mark.notes),
    ]
    return f'<article id="exercise-{i + 1}">{"".join(parts)}</article>\n'


def _quiz_story(quiz: QuizMark) -> str:
    """The questions answered wrong, with the feedback; those answered right, or not at all, folded
    away.
    """
    told = [question for question in quiz.questions if question.status in ("wrong", "changed")]
    parts = [f'<p class="calm">{quiz.earned} of {counted(quiz.points, "question")} right</p>']
    parts += [f'<p class="note">{prose(_as_sentence(quiz.note))}</p>'] if quiz.note else []
    parts += map(_question_story, told)
    for status, words in (("not answered", "not answered"), ("right", "answered right")):
        prompts = [
            f"<li>{prose(question.prompt)}</li>"
            for question in quiz.questions
            if question.status == status
        ]
        parts += (
            [fold(f"{len(prompts)} {words}", f"<ul>{''.join(prompts)}</ul>")] if prompts else []
        )
    return section(f"Quiz on {text(quiz.topic)}", "".join(parts))


def _question_story(question: QuestionMark) -> str:
    round_sign = sign("wrong" if question.status == "wrong" else "not attempted")
    given = f'<p class="calm">You answered: {prose(question.given)}</p>' if question.given else ""
    feedback = f'<p class="said">{prose(question.feedback)}</p>' if question.feedback else ""
    return (
        f'<article><h3 class="prompt">{round_sign}'
        f" {prose(question.prompt)}</h3>{given}{feedback}</article>\n"
    )


def _as_sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:].rstrip('.')}."

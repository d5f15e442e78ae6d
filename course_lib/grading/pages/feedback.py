"""The page that a student gets back."""

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
    """Return the page for one student: what was earned, and what happened to every lost point."""
    rows = []
    stories = []
    for i, mark in enumerate(grade.exercises, 1):
        name = exercise_name(mark.id)
        if mark.sentence or mark.shown or mark.lines or mark.printed or mark.notes:
            name = f'<a href="#exercise-{i}">{name}</a>'
            stories.append(f'<article id="exercise-{i}">{_exercise_story(mark)}</article>\n')
        points = f"{number(mark.earned)} of {mark.points}"
        rows.append(
            f"<tr><th scope=row>{name}</th><td>{sign(mark.status)} {mark.status}</td>"
            f"<td>{points}</td></tr>"
        )
    over = f"Feedback on {topics_of([grade])}"
    parts = [heading(over, f"<bdi>{text(grade.student)}</bdi>"), _total(grade)]
    if grade.notes:
        notes = "".join(f"<li>{prose(note)}</li>" for note in grade.notes)
        parts.append(f"<aside><h2>Notes on what you handed in</h2><ul>{notes}</ul></aside>")
    if rows:
        parts.append(section("Exercises", table(("Exercise", "Result", "Points"), rows, figures=1)))
    if stories:
        parts.append(section("What happened", "".join(stories)))
    parts += map(_quiz_story, grade.quizzes)
    if grade.files:
        parts.append(f"<footer>Marked from {listed(map(code, grade.files))}.</footer>")
    return document(f"{grade.student}: {over}", "narrow", parts)


def _total(grade: Grade) -> str:
    """Return the total in large type, and a bar with a segment for each exercise and quiz."""
    segments = [(m.id, m.status, m.earned, m.points) for m in grade.exercises]
    segments += [(f"{q.topic} quiz", "passed", float(q.earned), q.points) for q in grade.quizzes]
    x = 0.0
    shapes = []
    for name, status, earned, points in segments:
        width = 100 * points / max(grade.points, 1)
        filled = rect(x, width * earned / max(points, 1), status)
        title = f"{name}: {number(earned)} of {points}"
        shapes.append(titled(title, rect(x, width, "rest") + filled))
        x += width
    out_of = f"of {counted(grade.points, 'point')}"
    desc = (
        "A segment for each exercise and quiz, as wide as its points, filled as far as they were"
        " earned."
    )
    counts = []
    if grade.exercises:
        passed = sum(mark.status == "passed" for mark in grade.exercises)
        counts.append(f"{passed} of {counted(len(grade.exercises), 'exercise')} passed")
    for quiz in grade.quizzes:
        counts.append(f"{quiz.earned} of {counted(quiz.points, 'question')} right")
    return (
        f'<p class="total"><b>{number(grade.earned)}</b> {out_of}</p>'
        f"{svg('strip', f'{number(grade.earned)} {out_of}', shapes, desc)}"
        f'<p class="calm">{"; ".join(counts)}</p>'
    )


def _exercise_story(mark: ExerciseMark) -> str:
    cases = ""
    if mark.status in ("partly right", "wrong"):
        cases = f", {mark.right} of {counted(mark.cases, 'case')} right"
    points = f"{number(mark.earned)} of {counted(mark.points, 'point')}"
    parts = [
        f"<h3>{sign(mark.status)} {exercise_name(mark.id)}</h3>",
        f'<p class="calm">{mark.status}{cases}; {points}</p>',
    ]
    if mark.sentence:
        parts.append(f'<p class="said">{prose(mark.sentence)}</p>')
    if mark.beside:
        parts.append(f'<p class="said">{prose(mark.beside)}</p>')
    if mark.shown:
        parts.append(f'<p class="calm">Shown: {prose(mark.shown)}</p>')
    if mark.lines:
        lines = "\n".join(f"{where}, line {line}:  {code}" for where, line, code in mark.lines)
        parts.append(f'<p class="label">In your code</p><pre>{text(lines)}</pre>')
    if mark.printed:
        unfolded = "" if mark.status == "passed" else " open"
        printed = f"<pre>{text(mark.printed)}</pre>"
        parts.append(fold("What your code printed", printed, unfolded))
    parts += [f'<p class="note">{prose(note)}</p>' for note in mark.notes]
    return "".join(parts)


def _quiz_story(quiz: QuizMark) -> str:
    """Return the questions answered wrong with their feedback, and the others folded away."""
    parts = [f'<p class="calm">{quiz.earned} of {counted(quiz.points, "question")} right</p>']
    if quiz.note:
        note = f"{quiz.note[:1].upper()}{quiz.note[1:].rstrip('.')}."
        parts.append(f'<p class="note">{prose(note)}</p>')
    for question in quiz.questions:
        if question.status in ("wrong", "changed"):
            parts.append(_question_story(question))
    for status, words in (("not answered", "not answered"), ("right", "answered right")):
        prompts = [question.prompt for question in quiz.questions if question.status == status]
        if prompts:
            entries = "".join(f"<li>{prose(prompt)}</li>" for prompt in prompts)
            parts.append(fold(f"{len(prompts)} {words}", f"<ul>{entries}</ul>"))
    return section(f"Quiz on {text(quiz.topic)}", "".join(parts))


def _question_story(question: QuestionMark) -> str:
    round_sign = sign("wrong" if question.status == "wrong" else "not attempted")
    parts = [f'<h3 class="prompt">{round_sign} {prose(question.prompt)}</h3>']
    if question.given:
        parts.append(f'<p class="calm">You answered: {prose(question.given)}</p>')
    if question.feedback:
        parts.append(f'<p class="said">{prose(question.feedback)}</p>')
    return f"<article>{''.join(parts)}</article>\n"

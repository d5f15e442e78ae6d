"""The page for the instructor: the picture of the whole class."""

from collections import Counter
from collections.abc import Sequence
from statistics import mean, median
from urllib.parse import quote

from course_lib.grading.pages.drawing import (
    STATUSES,
    legend,
    lettering,
    rect,
    spark,
    stacked,
    svg,
    titled,
)
from course_lib.grading.pages.page import (
    code,
    counted,
    document,
    exercise_name,
    fold,
    heading,
    number,
    percent,
    prose,
    ranked,
    ranking,
    section,
    table,
    text,
    topics_of,
)
from course_lib.grading.records import ExerciseMark, Grade, QuizMark
from course_lib.grading.submissions import slug

BINS = 10  # bars of the histogram
LISTED = 10  # misconceptions and questions shown; further ones are folded away or left out


def class_page(grades: Sequence[Grade]) -> str:
    """The page for the instructor: how the class did, what was hard, and what it misunderstood.

    Students of whom no file could be read are listed, but count in no figure.
    """
    students = sorted(
        grades, key=lambda grade: (grade.student.casefold(), grade.student, grade.digest)
    )
    marked = [grade for grade in students if grade.files]
    marks, quizzes = _by_exercise(marked), [quiz for grade in marked for quiz in grade.quizzes]
    misconceptions = Counter(
        (m.id, m.misconception) for g in marked for m in g.exercises if m.misconception
    )
    over = f"Class report on {topics_of(students)}" if students else "Class report"
    parts = [
        heading(over, counted(len(students), "student")),
        f'<p class="lead">{_summary(marks, misconceptions, len(marked), len(students))}</p>',
        _key_figures(marked, len(students)) if marked else "",
        section("Totals", _histogram([_share(grade) for grade in marked])) if marked else "",
        section("Exercises, the hardest first", _hardest(marks)) if marks else "",
        (
            section("What was misunderstood", _misunderstood(misconceptions, marks, len(marked)))
            if marks
            else ""
        ),
        (
            section("Quiz questions most often answered wrong", _hard_questions(quizzes))
            if quizzes
            else ""
        ),
        section("Submissions with notes", _noted(students)) if students else "",
        section("Students", _students(students)) if students else "",
    ]
    return document(over, "wide", parts)


Marks = dict[str, list[ExerciseMark]]  # of the students, by exercise


def _by_exercise(grades: Sequence[Grade]) -> Marks:
    """The marks of all students by exercise, in the assignment's order."""
    marks: Marks = {}
    for mark in (mark for grade in grades for mark in grade.exercises):
        marks.setdefault(mark.id, []).append(mark)
    return marks


def _earned(marks: Sequence[ExerciseMark]) -> float:
    """The share of the points of an exercise that the class earned."""
    return sum(mark.earned for mark in marks) / max(sum(mark.points for mark in marks), 1)


def _share(grade: Grade) -> float:
    return grade.earned / max(grade.points, 1)


def _summary(marks: Marks, misconceptions: Counter, marked: int, students: int) -> str:
    """What to teach again, in one or two sentences; and who is left out of the figures."""
    if not marked:
        return "Nothing was handed in that could be read, so there are no figures."
    said = []
    if marks:
        shares = {id: _earned(theirs) for id, theirs in marks.items()}
        hardest = min(shares, key=shares.__getitem__)
        if shares[hardest] == 1:
            said.append("Every point of every exercise was earned.")
        elif not any(shares.values()):
            said.append("No point of any exercise was earned.")
        else:
            share = percent(shares[hardest])
            said.append(
                f"The hardest exercise is {code(hardest)}: {share} of its points were earned."
            )
    if misconceptions:
        (id, name), n = _ranked(misconceptions, marks)[0]
        said.append(
            f"The commonest misconception is {code(name)} in {code(id)}, shown by {n} of {marked}."
        )
    if marked < students:
        out = counted(students - marked, "student")
        said.append(f"The figures leave out {out} who handed in nothing that could be read.")
    return " ".join(said)


def _key_figures(grades: Sequence[Grade], students: int) -> str:
    earned = [grade.earned for grade in grades]
    points = f"of {counted(max(grade.points for grade in grades), 'point')}"
    tiles = [
        ("Median", number(median(earned)), points),
        ("Mean", number(mean(earned)), points),
        ("Lowest to highest", f"{number(min(earned))} to {number(max(earned))}", points),
        ("Marked", str(len(grades)), f"of {counted(students, 'student')}"),
    ]
    shown = "".join(
        f"<div><dt>{name}</dt><dd><b>{value}</b> {of}</dd></div>" for name, value, of in tiles
    )
    return f'<dl class="tiles">{shown}</dl>'


def _histogram(shares: Sequence[float]) -> str:
    """How many students earned which share of the points, in BINS bars; the median as a line behind
    them.
    """
    counts = Counter(min(BINS - 1, int(BINS * share + 1e-9)) for share in shares)
    most = max(counts.values())
    step = next(s * 10**k for k in range(9) for s in (1, 2, 5) if most <= 4 * s * 10**k)
    top = -(-most // step) * step
    shapes, said = [], []
    for n in range(0, top + 1, step):
        y = 100 - 100 * n / top
        shapes.append(f'<line class="rule" x2="100%" y1="{y:.5g}%" y2="{y:.5g}%"/>')
        shapes.append(lettering(0, y, str(n), "end", dx=-8, dy=4))
    x = 100 * median(shares)
    shapes.append(f'<line class="median" x1="{x:.5g}%" x2="{x:.5g}%" y1="-32" y2="100%"/>')
    side, dx = ("end", -6) if x > 50 else ("start", 6)
    shapes.append(
        lettering(x, 0, f"median {percent(median(shares))}", f"{side} strong", dx=dx, dy=-22)
    )
    width = 100 / BINS
    for i in range(BINS):
        x, height = i * width, 100 * counts[i] / top
        said.append(f"{x:.0f} to {x + width:.0f} %: {counts[i]}")
        shapes.append(lettering(x, 100, f"{x:.0f}", "mid", dy=18))
        if counts[i]:
            at = (
                f'x="{x + 0.5:.5g}%" width="{width - 1:.5g}%" y="{100 - height:.5g}%"'
                f' height="{height:.5g}%"'
            )
            count = lettering(x + width / 2, 100 - height, str(counts[i]), "mid strong", dy=-5)
            shapes.append(titled(said[-1], f'<rect class="passed" {at}/>{count}'))
    shapes.append(lettering(100, 100, "100", "mid", dy=18))
    shapes.append(lettering(50, 100, "points earned, % of all", "mid", dy=42))
    shapes.append('<text class="mid" transform="translate(-38 90) rotate(-90)">students</text>')
    return svg(
        "histogram",
        "Distribution of the totals",
        shapes,
        f"Students by points earned. {', '.join(said)}.",
    )


def _hardest(marks: Marks) -> str:
    rows = []
    for id, theirs in sorted(marks.items(), key=lambda item: _earned(item[1])):
        counts = Counter(mark.status for mark in theirs)
        bar = stacked(id, [(status, status, counts[status]) for status in STATUSES])
        of = f"of its {counted(theirs[0].points, 'point')}"
        rows.append(ranked(exercise_name(id), percent(_earned(theirs)), of, bar))
    note = "The share of its points that the class earned; the bars count students by result."
    return f'<p class="calm">{note}</p>{legend(dict(zip(STATUSES, STATUSES, strict=True)))}{ranking(rows)}'


def _ranked(misconceptions: Counter, marks: Marks) -> list[tuple[tuple[str, str], int]]:
    """The commonest first; equally common ones in the order of the exercises."""
    order = {id: i for i, id in enumerate(marks)}
    return sorted(
        misconceptions.items(), key=lambda item: (-item[1], order[item[0][0]], item[0][1])
    )


def _misunderstood(misconceptions: Counter, marks: Marks, students: int) -> str:
    if not misconceptions:
        return '<p class="calm">No answer showed a misconception that the course knows.</p>'
    rows = []
    for (id, name), n in _ranked(misconceptions, marks):
        said = _declared_sentence(id, name) or next(
            m.sentence for m in marks[id] if m.misconception == name
        )
        bar = svg(
            "thin", f"{n} of {counted(students, 'student')}", [rect(0, 100 * n / students, "wrong")]
        )
        head = f'{exercise_name(id)} <span class="calm">{text(name)}</span>'
        rows.append(ranked(head, str(n), f"of {students}", f"{bar}<p>{prose(said)}</p>"))
    rest = rows[LISTED:]
    return ranking(rows[:LISTED]) + (fold(f"{len(rest)} more", ranking(rest)) if rest else "")


def _declared_sentence(id: str, name: str) -> str:
    """The sentence of a misconception, "" when the course does not declare it (any more)."""
    # here, because it brings torch along, and a student's page needs none
    from course_lib.checking import find_exercise

    try:
        return find_exercise(id).misconceptions[name].sentence
    except LookupError:
        return ""


def _hard_questions(quizzes: Sequence[QuizMark]) -> str:
    answers: dict[tuple[str, str, str], Counter] = {}
    for quiz in quizzes:
        for question in quiz.questions:
            answers.setdefault((quiz.topic, question.id, question.prompt), Counter())[
                question.status
            ] += 1
    hard = sorted(
        (item for item in answers.items() if item[1]["wrong"]), key=lambda item: -item[1]["wrong"]
    )
    silent = sum(
        all(question.status == "not answered" for question in quiz.questions) for quiz in quizzes
    )
    note = f'<p class="calm">{silent} of {len(quizzes)} handed in no answers.</p>' if silent else ""
    if not hard:
        return f'{note}<p class="calm">No question was answered wrong.</p>'
    rows = []
    for (_, id, prompt), n in hard[:LISTED]:
        unanswered = n["not answered"] + n["changed"]
        parts = [("right", "passed", n["right"]), ("wrong", "wrong", n["wrong"])]
        bar = stacked(id, [*parts, ("not answered", "not attempted", unanswered)])
        of = f"of {counted(n['right'] + n['wrong'], 'answer')} wrong"
        rows.append(ranked(prose(prompt), str(n["wrong"]), of, bar))
    colours = legend({"right": "passed", "wrong": "wrong", "not answered": "not attempted"})
    return f'{note}{colours}<div class="prompts">{ranking(rows)}</div>'


def _noted(grades: Sequence[Grade]) -> str:
    noted = [grade for grade in grades if grade.notes]
    if not noted:
        return '<p class="calm">No submission has a note.</p>'
    notes = [f"<dt>{_link(g)}</dt><dd>{'<br>'.join(map(prose, g.notes))}</dd>" for g in noted]
    return f'<dl class="noted">{"".join(notes)}</dl>'


def _students(grades: Sequence[Grade]) -> str:
    rows = [
        f"<tr><th scope=row>{_link(grade)}</th><td>{spark(grade)}</td>"
        f"<td>{number(grade.earned)}</td><td>{percent(_share(grade))}</td></tr>"
        for grade in grades
    ]
    note = (
        "A column for each exercise, in the notebook's order, as high as the share of its points"
        " earned."
    )
    return f'<p class="calm">{note}</p>{table(("Student", "Exercises", "Points", "Share"), rows, figures=2)}'


def _link(grade: Grade) -> str:
    return f'<a href="students/{quote(slug(grade.student))}/feedback.html"><bdi>{text(grade.student)}</bdi></a>'

"""The page for the instructor: a report on the whole class."""

from collections import Counter
from collections.abc import Sequence
from statistics import mean, median
from urllib.parse import quote

from course_lib.grading.pages.drawing import (
    STATUSES,
    label,
    legend,
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
MAX_LISTED = 10  # misconceptions and questions shown; further ones are folded away or left out

MarksById = dict[str, list[ExerciseMark]]  # those of all students, by exercise


def class_page(grades: Sequence[Grade]) -> str:
    """Return the page for the instructor: how the class did, and what it misunderstood.

    Students none of whose files could be read are listed, but are left out of all figures.
    """
    students = sorted(
        grades, key=lambda grade: (grade.student.casefold(), grade.student, grade.digest)
    )
    marked = [grade for grade in students if grade.files]
    marks: MarksById = {}
    for grade in marked:
        for mark in grade.exercises:
            marks.setdefault(mark.id, []).append(mark)
    misconceptions = _misconceptions(marks)
    quizzes = [quiz for grade in marked for quiz in grade.quizzes]

    over = f"Class report on {topics_of(students)}" if students else "Class report"
    summary = _summary(marks, misconceptions, len(marked), len(students))
    parts = [
        heading(over, counted(len(students), "student")),
        f'<p class="lead">{summary}</p>',
    ]
    if marked:
        parts.append(_key_figures(marked, len(students)))
        parts.append(section("Totals", _histogram([_share(grade) for grade in marked])))
    if marks:
        misunderstood = _misunderstood(misconceptions, marks, len(marked))
        parts.append(section("Exercises, the hardest first", _hardest(marks)))
        parts.append(section("What was misunderstood", misunderstood))
    if quizzes:
        parts.append(section("Quiz questions most often answered wrong", _hard_questions(quizzes)))
    if students:
        parts.append(section("Submissions with notes", _noted(students)))
        parts.append(section("Students", _students(students)))
    return document(over, "wide", parts)


def _misconceptions(marks: MarksById) -> list[tuple[str, str, int]]:
    """Return (exercise, misconception, number of students), the commonest first.

    Equally common ones are in the order of the exercises.
    """
    shown = [(m.id, m.misconception) for of_one in marks.values() for m in of_one]
    counts = Counter((id, name) for id, name in shown if name)
    order = {id: i for i, id in enumerate(marks)}
    ranking = [(id, name, n) for (id, name), n in counts.items()]
    return sorted(ranking, key=lambda entry: (-entry[2], order[entry[0]], entry[1]))


def _earned(marks: Sequence[ExerciseMark]) -> float:
    """Return the share of the points of an exercise that the class earned."""
    return sum(mark.earned for mark in marks) / max(sum(mark.points for mark in marks), 1)


def _share(grade: Grade) -> float:
    return grade.earned / max(grade.points, 1)


def _summary(
    marks: MarksById, misconceptions: Sequence[tuple[str, str, int]], marked: int, students: int
) -> str:
    """Say in one or two sentences what to teach again, and who is left out of the figures."""
    if not marked:
        return "Nothing was handed in that could be read, so there are no figures."
    said = []
    if marks:
        shares = {id: _earned(of_one) for id, of_one in marks.items()}
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
        id, name, n = misconceptions[0]
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
    """Draw how many students earned which share of the points, with a line at the median."""
    counts = Counter(min(BINS - 1, int(BINS * share + 1e-9)) for share in shares)
    most = max(counts.values())
    step = next(s * 10**k for k in range(9) for s in (1, 2, 5) if most <= 4 * s * 10**k)
    top = -(-most // step) * step

    shapes = []
    for n in range(0, top + 1, step):
        y = 100 - 100 * n / top
        shapes.append(f'<line class="rule" x2="100%" y1="{y:.5g}%" y2="{y:.5g}%"/>')
        shapes.append(label(0, y, str(n), "end", dx=-8, dy=4))

    middle = median(shares)
    x = 100 * middle
    shapes.append(f'<line class="median" x1="{x:.5g}%" x2="{x:.5g}%" y1="-32" y2="100%"/>')
    side, dx = ("end", -6) if x > 50 else ("start", 6)
    shapes.append(label(x, 0, f"median {percent(middle)}", f"{side} strong", dx=dx, dy=-22))

    width = 100 / BINS
    said = []
    for i in range(BINS):
        x = i * width
        height = 100 * counts[i] / top
        said.append(f"{x:.0f} to {x + width:.0f} %: {counts[i]}")
        shapes.append(label(x, 100, f"{x:.0f}", "mid", dy=18))
        if counts[i]:
            bar = (
                f'<rect class="passed" x="{x + 0.5:.5g}%" width="{width - 1:.5g}%"'
                f' y="{100 - height:.5g}%" height="{height:.5g}%"/>'
            )
            count = label(x + width / 2, 100 - height, str(counts[i]), "mid strong", dy=-5)
            shapes.append(titled(said[-1], bar + count))
    shapes.append(label(100, 100, "100", "mid", dy=18))

    shapes.append(label(50, 100, "points earned, % of all", "mid", dy=42))
    shapes.append('<text class="mid" transform="translate(-38 90) rotate(-90)">students</text>')
    desc = f"Students by points earned. {', '.join(said)}."
    return svg("histogram", "Distribution of the totals", shapes, desc)


def _hardest(marks: MarksById) -> str:
    rows = []
    for id, of_one in sorted(marks.items(), key=lambda item: _earned(item[1])):
        counts = Counter(mark.status for mark in of_one)
        bar = stacked(id, [(status, status, counts[status]) for status in STATUSES])
        of = f"of its {counted(of_one[0].points, 'point')}"
        rows.append(ranked(exercise_name(id), percent(_earned(of_one)), of, bar))
    note = "The share of its points that the class earned; the bars count students by result."
    colours = legend({status: status for status in STATUSES})
    return f'<p class="calm">{note}</p>{colours}{ranking(rows)}'


def _misunderstood(
    misconceptions: Sequence[tuple[str, str, int]], marks: MarksById, students: int
) -> str:
    """List the commonest misconceptions, each with its sentence and, if it is an edit, its diff."""
    # Imported here, because this brings torch along and a student's page needs none.
    from course_lib.checking import find_exercise

    if not misconceptions:
        return '<p class="calm">No answer showed a misconception that the course knows.</p>'
    rows = []
    for id, name, n in misconceptions:
        try:
            declared = find_exercise(id).misconceptions[name]
            sentence = declared.sentence
            diff = declared.diff
        except LookupError:  # the course does not declare it any more
            sentence = next(m.sentence for m in marks[id] if m.misconception == name)
            diff = ""
        title = f"{n} of {counted(students, 'student')}"
        below = svg("thin", title, [rect(0, 100 * n / students, "wrong")])
        below += f"<p>{prose(sentence)}</p>"
        if diff:
            below += fold("The slip in the course's own solution", f"<pre>{text(diff)}</pre>")
        head = f'{exercise_name(id)} <span class="calm">{text(name)}</span>'
        rows.append(ranked(head, str(n), f"of {students}", below))
    shown = ranking(rows[:MAX_LISTED])
    rest = rows[MAX_LISTED:]
    return shown + (fold(f"{len(rest)} more", ranking(rest)) if rest else "")


def _hard_questions(quizzes: Sequence[QuizMark]) -> str:
    answers: dict[tuple[str, str, str], Counter] = {}
    for quiz in quizzes:
        for question in quiz.questions:
            key = (quiz.topic, question.id, question.prompt)
            answers.setdefault(key, Counter())[question.status] += 1
    wrong = [item for item in answers.items() if item[1]["wrong"]]
    hard = sorted(wrong, key=lambda item: -item[1]["wrong"])
    note = ""
    silent = [quiz for quiz in quizzes if all(q.status == "not answered" for q in quiz.questions)]
    if silent:
        note = f'<p class="calm">{len(silent)} of {len(quizzes)} handed in no answers.</p>'
    if not hard:
        return f'{note}<p class="calm">No question was answered wrong.</p>'
    rows = []
    for (_, id, prompt), n in hard[:MAX_LISTED]:
        segments = [
            ("right", "passed", n["right"]),
            ("wrong", "wrong", n["wrong"]),
            ("not answered", "not attempted", n["not answered"] + n["changed"]),
        ]
        of = f"of {counted(n['right'] + n['wrong'], 'answer')} wrong"
        rows.append(ranked(prose(prompt), str(n["wrong"]), of, stacked(id, segments)))
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
    heads = ("Student", "Exercises", "Points", "Share")
    return f'<p class="calm">{note}</p>{table(heads, rows, figures=2)}'


def _link(grade: Grade) -> str:
    page = f"students/{quote(slug(grade.student))}/feedback.html"
    return f'<a href="{page}"><bdi>{text(grade.student)}</bdi></a>'

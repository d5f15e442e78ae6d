"""Invent a class's submissions of chapter 01, to try `course grade` on.

    python docs/make_submissions.py FOLDER [--students N] [--seed S]

FOLDER gets a folder for every student, as they hand it in: the notebook, and the quiz answers that
it saved.  roster.csv is written beside FOLDER.  The first three students are always the same: one
whose answers are all right, one with three misconceptions and a half right answer, and one who
stopped halfway.  The answers of all others are drawn at random.
"""

import argparse
import copy
import csv
import itertools
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import indent

import nbformat

from course_lib.build import exercise_ids, solution_edition, student_edition
from course_lib.classroom.bank import digest, load_bank
from course_lib.paths import SOLUTIONS

SOURCE = SOLUTIONS / "01_ddpm.py"
STUB = "    raise NotImplementedError  # your turn"
RIGHT = "right"
UNFILLED = "unfilled"
HALF = "half right"
FIRST_NAMES = (
    "Ada Blaise Carl Dora Emil Fatima Goran Hana Ivan Jun Kofi Lena Mehmet Nils Olga Priya"
)
LAST_NAMES = (
    "Lovelace Pascal Gauss Abel Bayes Cantor Euler Fourier Green Hall Ito Jacobi Klein Laplace"
    " Markov Wiener"
)
NAMES = [
    f"{first} {last}" for first, last in itertools.product(FIRST_NAMES.split(), LAST_NAMES.split())
]

# What students write in place of `your turn`, by exercise and by the misconception that it shows.
ANSWERS = {
    "ddpm.q_sample": {
        HALF: """
a = alphas_cumprod[t].reshape(-1, 1, 1, 1)
return a.sqrt() * x_start + (1 - a).sqrt() * noise""",
        "no_sqrt": """
a = alphas_cumprod[t].reshape(-1, *[1] * (x_start.ndim - 1))
return a * x_start + (1 - a) * noise""",
        "swapped": """
abar = alphas_cumprod[t].view(-1, *[1] * (x_start.ndim - 1))
return torch.sqrt(1 - abar) * x_start + torch.sqrt(abar) * noise""",
        "t_minus_1": """
a = alphas_cumprod[t - 1].reshape(-1, *[1] * (x_start.ndim - 1))
return a**0.5 * x_start + (1 - a)**0.5 * noise""",
    },
    "ddpm.posterior_mean_variance": {
        "variance_is_beta": """
shape = (-1, *[1] * (x_t.ndim - 1))
abar = torch.cumprod(1 - betas, dim=0)
before = torch.cat([torch.ones(1), abar[:-1]])
c0 = (before.sqrt() * betas / (1 - abar))[t].reshape(shape)
ct = ((1 - betas).sqrt() * (1 - before) / (1 - abar))[t].reshape(shape)
return c0 * x_start + ct * x_t, betas[t].reshape(shape)""",
        "deviation": """
shape = (-1, *[1] * (x_t.ndim - 1))
abar = torch.cumprod(1 - betas, dim=0)
before = torch.cat([torch.ones(1), abar[:-1]])
c0 = (before.sqrt() * betas / (1 - abar))[t].reshape(shape)
ct = ((1 - betas).sqrt() * (1 - before) / (1 - abar))[t].reshape(shape)
sigma = ((1 - before) / (1 - abar) * betas).sqrt()
return c0 * x_start + ct * x_t, sigma[t].reshape(shape)""",
    },
    "ddpm.predict_x_start": {
        "not_divided": """
a = alphas_cumprod[t].reshape(-1, *[1] * (x_t.ndim - 1))
return x_t - (1 - a).sqrt() * eps""",
        "divided_by_variance": """
a = alphas_cumprod[t].reshape(-1, *[1] * (x_t.ndim - 1))
return (x_t - (1 - a).sqrt() * eps) / a""",
        "clamped": """
a = alphas_cumprod[t].reshape(-1, *[1] * (x_t.ndim - 1))
x_start = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
return x_start.clamp(-1, 1)""",
    },
    "ddpm.normal_kl": {
        "log_std": """
s1, s2 = log_variance1.exp(), log_variance2.exp()
return torch.log(s2 / s1) + (s1**2 + (mean1 - mean2)**2) / (2 * s2**2) - 0.5""",
        "reversed": """
d = log_variance1 - log_variance2
return 0.5 * (d - 1 + torch.exp(-d) + (mean1 - mean2)**2 * torch.exp(-log_variance1))""",
    },
    "ddpm.simple_loss": {
        "summed": """
x_t = q_sample(x_start, t, noise, alphas_cumprod)
return (noise - model(x_t, t)).pow(2).flatten(1).sum(1)""",
        "rooted": """
x_t = q_sample(x_start, t, noise, alphas_cumprod)
error = (model(x_t, t) - noise)**2
return error.flatten(1).mean(1).sqrt()""",
    },
    "ddpm.sample_step": {
        "noise_at_the_end": """
def at(table):
    return table[t].reshape(-1, *[1] * (x_t.ndim - 1))

abar = (1 - betas).cumprod(0)
mean = (x_t - at(betas / (1 - abar).sqrt()) * eps) / at((1 - betas).sqrt())
return mean + at(betas.sqrt()) * noise""",
        "variance_for_std": """
shape = (-1, *[1] * (x_t.ndim - 1))
b, abar = betas[t].reshape(shape), (1 - betas).cumprod(0)[t].reshape(shape)
z = noise * (t > 0).reshape(shape)
return (x_t - b / (1 - abar).sqrt() * eps) / (1 - b).sqrt() + b * z""",
    },
    "ddpm.discretised_nll": {
        "density": """
normal = torch.distributions.Normal(mean, log_scale.exp())
return -normal.log_prob(x)""",
        "closed_ends": """
scale = log_scale.exp()
upper = torch.special.ndtr((x + 1 / 255 - mean) / scale)
lower = torch.special.ndtr((x - 1 / 255 - mean) / scale)
return -torch.log((upper - lower).clamp(min=1e-12))""",
    },
    "ddpm.learned_range_variance": {
        "not_shifted": """
shape = (-1, *[1] * (v.ndim - 1))
top = betas.log()[t].reshape(shape)
bottom = ddpm.posterior_log_variance(betas)[t].reshape(shape)
return v * top + (1 - v) * bottom""",
        "exponentiated": """
shape = (-1, *[1] * (v.ndim - 1))
top = betas.log()[t].reshape(shape)
bottom = ddpm.posterior_log_variance(betas)[t].reshape(shape)
share = 0.5 * (v + 1)
return (share * top + (1 - share) * bottom).exp()""",
    },
    "ddpm.hybrid_loss": {
        "no_stop_gradient": """
eps, v = output.chunk(2, dim=1)
simple = ((noise - eps)**2).mean(dim=(1, 2, 3))
return simple + 0.001 * len(betas) * improved_ddpm.vlb_term(eps, v, x_start, x_t, t, betas)""",
        "no_steps": """
eps, v = output.chunk(2, dim=1)
simple = ((noise - eps)**2).mean(dim=(1, 2, 3))
return simple + 0.001 * improved_ddpm.vlb_term(eps.detach(), v, x_start, x_t, t, betas)""",
    },
    "ddpm.cosine_alphas_cumprod": {
        "single_precision": """
t = torch.arange(timesteps + 1) / timesteps
f = torch.cos((t + s) / (1 + s) * math.pi / 2)**2
return (f[1:] / f[0]).double()""",
        "not_normalised": """
t = torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps
return torch.cos((t + s) / (1 + s) * math.pi / 2)**2""",
    },
    "ddpm.importance_weights": {
        "mean_loss": """
mean = history.mean(dim=1)
p = (1 - uniform) * mean / mean.sum() + uniform / len(mean)
return p, 1 / (len(p) * p)""",
        "global_T": """
rms = history.pow(2).mean(dim=1).sqrt()
p = (1 - uniform) * rms / rms.sum() + uniform / len(rms)
return p, 1 / (T * p)""",
    },
    "ddpm.respace": {
        "picked": """
return betas[kept]""",
        "rolled": """
abar = torch.cumprod(1 - betas, dim=0)[kept]
return 1 - abar / abar.roll(1)""",
    },
}


@dataclass(frozen=True)
class Student:
    """What one student hands in.

    answers   for every exercise RIGHT, UNFILLED, or one of its ANSWERS
    attempts  exercises with an earlier, unfilled cell left above the answer
    moved     exercises whose cell was moved to the end of the notebook
    quiz      probability that an answer to a question of the quiz is right
    answered  probability that a question of the quiz is answered at all
    """

    name: str
    answers: Mapping[str, str]
    attempts: Sequence[str] = ()
    moved: Sequence[str] = ()
    quiz: float = 1.0
    answered: float = 1.0


def example_students() -> list[Student]:
    """Return the students of the README's example."""
    ids = every_exercise()
    mistaken = {
        "ddpm.q_sample": HALF,
        "ddpm.predict_x_start": "clamped",
        "ddpm.sample_step": "noise_at_the_end",
        "ddpm.hybrid_loss": "no_stop_gradient",
    }
    half_way = dict.fromkeys(ids, RIGHT) | dict.fromkeys(ids[len(ids) // 2 :], UNFILLED)
    return [
        Student("Ada Lovelace", dict.fromkeys(ids, RIGHT), quiz=0.9),
        Student("Blaise Pascal", dict.fromkeys(ids, RIGHT) | mistaken, quiz=0.7),
        Student("Carl Gauss", half_way, quiz=0.4, answered=0.5),
    ]


def draw_student(name: str, rng: random.Random) -> Student:
    """Draw a student at random: more or less able, more or less tidy."""
    ids = every_exercise()
    skill = rng.choice([1.0, 0.95, 0.9, 0.8, 0.6, 0.4])
    tidy = rng.random() < 0.8
    reached = len(ids) if rng.random() < 0.8 else rng.randrange(3, len(ids))
    answers = {}
    for id in ids:
        is_right = rng.random() < skill
        answers[id] = RIGHT if is_right else rng.choice([UNFILLED, *ANSWERS[id]])
    answers |= dict.fromkeys(ids[reached:], UNFILLED)
    untidy = [] if tidy else rng.sample(ids, 4)
    return Student(
        name,
        answers,
        attempts=untidy[:2],
        moved=untidy[2:],
        quiz=skill * rng.uniform(0.8, 1),
        answered=reached / len(ids),
    )


# ---------------------------------------------------------------------------------- what is written


def notebook(student: Student) -> str:
    """Return the student's 01_ddpm.ipynb."""
    edition = copy.deepcopy(blank_notebook())
    right = solutions()
    cells = []
    moved = []
    for cell in edition.cells:
        id = next(iter(exercise_ids(nbformat.v4.new_notebook(cells=[cell]))), None)
        answer = student.answers.get(id, UNFILLED)
        if id in student.attempts:
            cells.append(nbformat.v4.new_code_cell(cell.source, id=f"{cell.id}-first"))
        if answer != UNFILLED:
            body = right[id] if answer == RIGHT else indent(ANSWERS[id][answer].strip(), "    ")
            cell.source = cell.source.replace(STUB, body)
        (moved if id in student.moved else cells).append(cell)
    edition.cells = [*cells, *moved]
    return nbformat.writes(edition)


@cache
def blank_notebook() -> nbformat.NotebookNode:
    """Return the notebook as every student gets it."""
    return student_edition(SOURCE)


@cache
def solutions() -> dict[str, str]:
    """Return the course's own lines for every exercise, in the order of the chapter."""
    code = (cell.source for cell in solution_edition(SOURCE).cells if cell.cell_type == "code")
    pattern = r'^@exercise\("(.+?)"\).*?# SOLUTION\n(.*?)\n +# END'
    return dict(re.findall(pattern, "\n".join(code), re.DOTALL | re.MULTILINE))


def every_exercise() -> list[str]:
    """Return the ids of the chapter's exercises, in its order."""
    return list(solutions())


def quiz_answers(student: Student) -> str:
    """Return the student's quiz-ddpm.json, as the notebook's quiz saves it."""
    rng = random.Random(student.name)
    saved = {}
    for question in load_bank("ddpm").questions:
        right = rng.random() < student.quiz
        if rng.random() < student.answered:
            result = {"answer": choose(question, right), "right": right}
            saved[question.id] = {"digest": digest(question), "result": result}
    return json.dumps(saved, indent=1)


def choose(question, right: bool) -> list[int] | float:
    """Return a right or a wrong answer to a question of the bank."""
    if question.kind == "numeric":
        return question.answer if right else round(question.answer + 10 * question.tolerance, 6)
    if question.kind == "ordering":
        return list(range(len(question.items))) if right else question.start()
    options = [i for i, option in enumerate(question.options) if option.correct == right]
    return options if right else options[:1]


def write(folder: Path, students: Sequence[Student]) -> None:
    """Write every student's folder, and the roster beside them."""
    for student in students:
        own = folder / student.name
        own.mkdir(parents=True, exist_ok=True)
        (own / SOURCE.with_suffix(".ipynb").name).write_text(notebook(student), encoding="utf-8")
        (own / "quiz-ddpm.json").write_text(quiz_answers(student), encoding="utf-8")
    with open(folder.absolute().with_name("roster.csv"), "w", encoding="utf-8", newline="") as file:
        roster = csv.writer(file)
        roster.writerow(["submission", "student", "ID", "SIS Login ID", "Section", "Email address"])
        for number, student in enumerate(students, start=1):
            first, last = student.name.split()
            login = f"{first[0]}{last}{number}".lower()
            section = f"Group {1 + number % 2}"
            email = f"{login}@example.org"
            row = [student.name, f"{last}, {first}", 1000 + number, login, section, email]
            roster.writerow(row)


def invent(count: int, seed: int = 0) -> list[Student]:
    """Return the README's students and `count` - 3 others, the same for the same seed."""
    first_three = example_students()
    rng = random.Random(seed)
    others = [name for name in NAMES if name not in {student.name for student in first_three}]
    drawn = [draw_student(name, rng) for name in rng.sample(others, max(count - 3, 0))]
    return [*first_three, *drawn][:count]


def main() -> None:
    """Write as many submissions as the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write; roster.csv is written beside it")
    parser.add_argument(
        "--students",
        type=int,
        default=3,
        metavar="N",
        help=f"from 1 to {len(NAMES)} (default: 3)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="for the drawn answers (default: 0)"
    )
    options = parser.parse_args()
    if not 1 <= options.students <= len(NAMES):
        parser.error(f"expected from 1 to {len(NAMES)} students, got {options.students}")
    write(options.folder, invent(options.students, options.seed))


if __name__ == "__main__":
    main()

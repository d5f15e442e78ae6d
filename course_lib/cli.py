"""The ``course`` command.

A subcommand imports what it needs when it runs, so that help is instant.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status: 0 when it went well, 1 when it failed.

    A usage error exits with 2 (argparse).
    """
    options = parser().parse_args(argv)
    try:
        return options.run(options)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, LookupError, OSError, RuntimeError, ImportError) as error:
        print(f"course {options.command}: {error}", file=sys.stderr)
        return 1


# ---------------------------------------------------------------------------------------- arguments


class _Command(argparse.ArgumentParser):
    """A parser whose epilog may be a function, called when the help is asked for."""

    def format_help(self) -> str:
        if callable(self.epilog):
            self.epilog = self.epilog()
        return super().format_help()


def parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands; what it parses holds the function to `run`."""
    course = _Command(prog="course", description="Tools of the visual generation course.")
    commands = course.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add(
        commands,
        "doctor",
        _doctor,
        "say whether this machine can run the course, and what to do where it cannot",
    )
    _add_build(commands)
    _add_train(commands)
    _add_generate(commands)
    _add_grade(commands)
    _add_hand_in(commands)
    _add(
        commands,
        "models",
        _models,
        "list every preset, its parameters counted and published, and the source",
    )
    _add_quiz(commands)
    return course


def _add(
    commands: Any, name: str, run: Callable, text: str, epilog: Callable[[], str] | None = None
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_build(commands: Any) -> None:
    build = _add(commands, "build", _build, "make the notebooks from solutions/, and execute them")
    build.add_argument(
        "notebooks", nargs="*", metavar="NOTEBOOK", help="such as 01 or 01_ddpm (default: all)"
    )
    how = build.add_mutually_exclusive_group()
    how.add_argument(
        "--check",
        action="store_true",
        help="write nothing; say where the notebooks are out of date",
    )
    how.add_argument(
        "--solutions", type=Path, metavar="DIR", help="write the solution editions into DIR instead"
    )
    how.add_argument(
        "--nbgrader",
        type=Path,
        metavar="DIR",
        help="write a course folder for nbgrader into DIR instead",
    )
    how.add_argument(
        "--no-execute", action="store_true", help="write the student editions without running them"
    )


def _add_train(commands: Any) -> None:
    train = _add(commands, "train", _train, "train a recipe; run it again to resume", _recipes)
    train.add_argument("name", help="a recipe of those below, or module:ATTRIBUTE")
    train.add_argument("--device", help="cpu, cuda or mps (default: best available)")
    train.add_argument("--steps", type=int, help="go to this step only; resume later")
    train.add_argument("--seconds", type=float, help="stop after so much time; resume later")
    train.add_argument("--fresh", action="store_true", help="start over instead of resuming")
    train.add_argument(
        "--folder", type=Path, help="keep everything there, not in the course's own folders"
    )
    train.add_argument(
        "--save-every", type=float, default=60.0, help="seconds between saves (default 60)"
    )


def _add_generate(commands: Any) -> None:
    generate = _add(
        commands,
        "generate",
        _generate_image,
        "run published weights from a folder on disk, with the course's own code",
    )
    kinds = generate.add_subparsers(dest="kind", required=True, metavar="MODEL")
    clip = kinds.add_parser("svd", help="continue an image as a clip: Stable Video Diffusion")
    clip.set_defaults(run=_generate_clip)
    clip.add_argument(
        "--image", type=Path, required=True, metavar="FILE", help="a photo; cropped to the size"
    )
    clip.add_argument("--frames", type=int, help="(default: the model's own, 14; 25 for XT)")
    clip.add_argument("--fps", type=int, default=7, help="frames a second (default 7)")
    clip.add_argument(
        "--motion-bucket", type=int, default=127, help="how much moves, 0 to 255 (default 127)"
    )
    clip.add_argument(
        "--augmentation",
        type=float,
        default=0.02,
        help="noise in the image; more lets the clip leave it further (default 0.02)",
    )
    clip.add_argument(
        "--guidance",
        type=float,
        nargs=2,
        metavar=("FIRST", "LAST"),
        help="of the first frame and the last (default: the model's own, 1 2.5; 1.5 3 for XT)",
    )
    clip.add_argument(
        "--decode-at-once",
        type=int,
        metavar="FRAMES",
        help="more flicker less and need more memory (default: what fits, up to 14)",
    )

    image = kinds.add_parser("ldm", help="draw what a text says: Stable Diffusion 1 and 2")
    image.set_defaults(run=_generate_image)
    image.add_argument("--prompt", required=True, metavar="TEXT")
    image.add_argument("--negative", default="", metavar="TEXT", help="what not to draw")
    image.add_argument(
        "--guidance", type=float, default=7.5, help="towards the text; 1 is none (default 7.5)"
    )

    video = kinds.add_parser(
        "cogvideox", help="film what a text says, from an image on if there is one: CogVideoX"
    )
    video.set_defaults(run=_generate_video)
    video.add_argument("--prompt", required=True, metavar="TEXT")
    video.add_argument("--negative", default="", metavar="TEXT", help="what not to film")
    video.add_argument(
        "--image", type=Path, metavar="FILE", help="a photo to continue; cropped to the size"
    )
    video.add_argument("--frames", type=int, help="1 + a multiple of 8 (default: the model's own)")
    video.add_argument(
        "--fps", type=int, help="frames a second (default: the model's own, 8; 16 for 1.5)"
    )
    video.add_argument(
        "--guidance", type=float, default=6.0, help="towards the text; 1 is none (default 6)"
    )
    video.add_argument(
        "--dynamic-guidance", action="store_true", help="let it grow from step to step"
    )
    video.add_argument("--sampler", choices=["ddim", "dpm"], help="(default: what the folder says)")

    own = "the model's own"
    for kind, steps, size in ((clip, None, "576x1024"), (image, 50, own), (video, 50, own)):
        kind.add_argument(
            "--weights",
            type=Path,
            required=True,
            metavar="DIR",
            help="a folder in diffusers' layout; nothing is downloaded",
        )
        kind.add_argument(
            "--out", type=Path, required=True, metavar="FILE", help="the .mp4 or .png to write"
        )
        kind.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
        kind.add_argument(
            "--steps", type=int, default=steps, help=f"of the sampler (default {steps or own})"
        )
        kind.add_argument(
            "--size", type=_size, metavar="HxW", help=f"height and width (default {size})"
        )
        kind.add_argument("--device", help="cpu, cuda or mps (default: best available)")
        kind.add_argument(
            "--dtype",
            choices=["float32", "float16", "bfloat16"],
            help="(default: float16; float32 on a CPU)",
        )


def _size(text: str) -> tuple[int, int]:
    """Read a size such as 576x1024."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 576x1024, got {text!r}")
    return int(height), int(width)


def _recipes() -> str:
    """List the recipes by chapter, with the cost of the run whose results are stored."""
    from course_lib import paths
    from course_lib.training import results
    from course_lib.training.recipes import RECIPES

    chapters: dict[str, list[str]] = {}
    width = max(map(len, RECIPES), default=0)
    for name, recipe in RECIPES.items():
        topic = type(recipe).__module__.rpartition(".")[2]
        chapter = next((path.stem for path in paths.SOLUTIONS.glob(f"??_{topic}.py")), topic)
        try:
            provenance = results(name)["provenance"]
            cost = f"{provenance['seconds'] / 60:>5.0f} min on {provenance['device']}"
        except FileNotFoundError:
            cost = "    - "
        lines = chapters.setdefault(chapter, [])
        lines.append(f"  {name:<{width}}  {recipe.steps:>7,} steps  {cost}".rstrip())
    parts = [f"{chapter}\n" + "\n".join(lines) for chapter, lines in sorted(chapters.items())]
    return "recipes, and what the stored run took:\n\n" + "\n\n".join(parts)


def _add_grade(commands: Any) -> None:
    grade = _add(
        commands,
        "grade",
        _grade,
        "mark a folder of submissions: grades, feedback and an overview of the class",
    )
    grade.add_argument(
        "submissions", type=Path, help="a folder or zip with an entry per student, or one notebook"
    )
    grade.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="GRADES",
        help="where to write; re-run to resume",
    )
    grade.add_argument(
        "--topic",
        action="append",
        default=[],
        help="chapter to mark, such as ddpm (default: what the class answers)",
    )
    grade.add_argument(
        "--seed", type=int, metavar="N", help="of the cases (default: drawn once, kept in GRADES)"
    )
    grade.add_argument(
        "--jobs", type=int, metavar="N", help="submissions at a time (default: one per core)"
    )
    grade.add_argument(
        "--isolation",
        choices=["bwrap", "process"],
        default="bwrap",
        help="process: resource limits only, for code you trust",
    )
    grade.add_argument(
        "--roster", type=Path, metavar="CSV", help="columns submission and student, and any further"
    )
    grade.add_argument(
        "--scheduler", metavar="ADDRESS", help="mark on a dask.distributed cluster: tcp://..."
    )


def _add_hand_in(commands: Any) -> None:
    pack = _add(
        commands,
        "hand-in",
        _hand_in,
        "pack a notebook with its quiz answers into one file to hand in",
    )
    pack.add_argument("notebook", type=Path, help="such as notebooks/01_ddpm.ipynb")
    pack.add_argument(
        "target", type=Path, nargs="?", help="the .zip to write, or its folder (default: here)"
    )


def _add_quiz(commands: Any) -> None:
    quiz = _add(commands, "quiz", _quiz, "take a question bank elsewhere")
    actions = quiz.add_subparsers(dest="action", required=True, metavar="ACTION")
    export = actions.add_parser(
        "export", help="write a bank for Moodle (gift), Canvas (qti) or Anki (anki)"
    )
    export.add_argument("topic", help="the bank in data/quizzes, such as ddpm")
    export.add_argument("format", choices=["gift", "qti", "anki"])
    export.add_argument("path", type=Path, help="the file to write")


# -------------------------------------------------------------------------------------- subcommands


def _doctor(options: argparse.Namespace) -> int:
    from course_lib.doctor import doctor

    report = doctor()
    print(report)
    return 0 if report.ok else 1


def _build(options: argparse.Namespace) -> int:
    from course_lib import build
    from course_lib.busy import busy

    chapters = build.sources(options.notebooks)
    if options.check:
        with busy("Checking the notebooks"):
            problems = build.check_chapters(chapters)
        print(
            "\n".join(problems) or f"{len(chapters)} notebooks are what solutions/ makes",
            flush=True,
        )
        return 1 if problems else 0
    if options.solutions:
        for path in build.write_solutions(options.solutions, chapters):
            print(path)
        return 0
    if options.nbgrader:
        from course_lib.build.nbgrader import write_course_folder

        for path in write_course_folder(options.nbgrader, chapters):
            print(path)
        return 0
    for source in chapters:
        with busy(f"Building {source.stem}"):
            seconds = build.build(source, run=not options.no_execute)
        slowest = max(range(len(seconds)), key=seconds.__getitem__, default=None)
        took = ""
        if seconds:
            took = f": {sum(seconds):.0f} s, of which cell {slowest} took {seconds[slowest]:.0f} s"
        print(f"notebooks/{source.stem}.ipynb{took}", flush=True)
    return 0


def _grade(options: argparse.Namespace) -> int:
    settings = {
        name: getattr(options, name)
        for name in ("seed", "jobs", "isolation", "roster", "scheduler")
    }
    try:
        from course_lib.grading.batch import grade

        grades = grade(options.submissions, options.out, topics=options.topic, **settings)
    except KeyboardInterrupt:
        print(
            "\nstopped; what is finished is kept, and the same command resumes from there",
            file=sys.stderr,
            flush=True,
        )
        # answers still running in threads must not hold it up; their jails end with this process
        os._exit(130)
    earned = sum(one.earned for one in grades) / len(grades)
    print(f"{len(grades)} submissions, {earned:.1f} of {grades[0].points} points on average")
    print(f"{options.out / 'class.html'}  {options.out / 'grades.csv'}")
    return 0


def _hand_in(options: argparse.Namespace) -> int:
    from course_lib.classroom.hand_in import hand_in, to_pack

    packed = hand_in(options.notebook, options.target)
    print(f"{packed}: {' and '.join(path.name for path in to_pack(options.notebook))}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from course_lib.training.main import run_training

    return run_training(
        options.name,
        options.device,
        steps=options.steps,
        seconds=options.seconds,
        fresh=options.fresh,
        folder=options.folder,
        save_every=options.save_every,
    )


def _generate_clip(options: argparse.Namespace) -> int:
    from course_lib.pipelines.main import generate_clip
    from course_lib.pipelines.svd import Settings

    settings = Settings(
        frames=options.frames,
        steps=options.steps,
        fps=options.fps,
        motion_bucket=options.motion_bucket,
        augmentation=options.augmentation,
        guidance=options.guidance and tuple(options.guidance),
        frames_at_once=options.decode_at_once,
    )
    return generate_clip(
        options.weights,
        options.image,
        options.out,
        settings,
        size=options.size or (576, 1024),
        seed=options.seed,
        device=options.device,
        dtype=options.dtype,
    )


def _generate_image(options: argparse.Namespace) -> int:
    from course_lib.pipelines.ldm import Settings
    from course_lib.pipelines.main import generate_image

    settings = Settings(
        negative=options.negative,
        size=options.size,
        steps=options.steps,
        guidance=options.guidance,
    )
    return generate_image(
        options.weights,
        options.prompt,
        options.out,
        settings,
        seed=options.seed,
        device=options.device,
        dtype=options.dtype,
    )


def _generate_video(options: argparse.Namespace) -> int:
    from course_lib.pipelines.cogvideox import Settings
    from course_lib.pipelines.main import generate_video

    settings = Settings(
        negative=options.negative,
        frames=options.frames,
        size=options.size,
        steps=options.steps,
        guidance=options.guidance,
        dynamic="intended" if options.dynamic_guidance else None,
        sampler=options.sampler,
        fps=options.fps,
    )
    return generate_video(
        options.weights,
        options.prompt,
        options.image,
        options.out,
        settings,
        seed=options.seed,
        device=options.device,
        dtype=options.dtype,
    )


def _models(options: argparse.Namespace) -> int:
    import torch

    from course_lib.zoo import MODELS

    width = max(map(len, MODELS))
    print(f"{'preset':<{width}}{'parameters':>18}  {'published':<10}source")
    for name, entry in MODELS.items():
        with torch.device("meta"):  # shapes without memory
            count = sum(parameter.numel() for parameter in entry.build().parameters())
        print(f"{name:<{width}}{count:>18,}  {entry.published:<10}{entry.source}".rstrip())
    return 0


def _quiz(options: argparse.Namespace) -> int:
    from course_lib.classroom import quiz_export

    quiz_export.export(options.topic, options.format, options.path)
    print(options.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

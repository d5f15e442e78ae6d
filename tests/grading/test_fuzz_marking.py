"""Damaged notebooks all the way: read, run in a jail, marked, and written as feedback."""

import json

from course_lib.checking import find_exercise
from course_lib.grading import marking
from course_lib.grading.isolation import Jail
from course_lib.grading.pages import feedback_page
from course_lib.grading.records import Assignment, Grade
from course_lib.grading.submissions import find_submissions
from tests.grading.mutate import mutated_notebooks

ASSIGNMENT = Assignment(topics=("start_here",), quizzes=True, seed=3)


class RememberingJail(Jail):
    """A jail that runs the same request once: most mutants hold the same code as another."""

    def __init__(self):
        super().__init__()
        self.replies = {}

    def run(self, request):
        key = json.dumps(request)
        if key not in self.replies:
            self.replies[key] = super().run(request)
        return self.replies[key]


def test_a_thousand_mutants_are_marked_without_a_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(marking, "exercises", lambda topic: [find_exercise("start_here.to_model")])
    seen = set()
    with RememberingJail() as jail:
        for data in mutated_notebooks(seed=2, count=1000):
            (tmp_path / "ada.ipynb").write_bytes(data)
            (submission,) = find_submissions(tmp_path)
            grade = marking.mark_work(submission.read(), ASSIGNMENT, jail)
            assert Grade.model_validate_json(grade.model_dump_json()) == grade
            assert "Traceback" not in feedback_page(grade)
            seen.add(grade.exercises[0].status)
        assert len(jail.replies) > 30
    assert {"not attempted", "missing"} <= seen and "passed" not in seen

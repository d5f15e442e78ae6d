"""What a class hands in: who is found, what is read, and the notes on everything else."""

import json
import os
import pickle
import stat
import struct
import sys
import time
import tracemalloc
import unicodedata
from io import BytesIO
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, ZipFile, ZipInfo

import pytest

from course_lib.grading import reading, submissions
from course_lib.grading.records import Work
from course_lib.grading.submissions import find_submissions, slug

ANSWERS = {"one": {"digest": "0123", "result": {"answer": [0], "right": True}}}


def notebook(*sources):
    """Return the bytes of a notebook with a title and these code cells."""
    cells = [{"cell_type": "markdown", "source": "# A title"}]
    cells += [{"cell_type": "code", "source": source} for source in sources]
    return json.dumps({"cells": cells, "nbformat": 4}).encode()


def packed(*members, form=ZIP_DEFLATED):
    """Return the bytes of a zip; a member is (name, bytes) or (ZipInfo, bytes)."""
    file = BytesIO()
    with ZipFile(file, "w", form) as archive:
        for name, data in members:
            info = name if isinstance(name, ZipInfo) else ZipInfo("x")
            if info is not name:
                info.filename = name  # ZipInfo would normalize the name
                info.compress_type = form
            archive.writestr(info, data)
    return file.getvalue()


def put(folder, files):
    """Write files, {name: bytes or text}, and make the folders they are in."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def read(path, roster=None):
    """Return all works at `path` by student; each survives being written and read."""
    works = [submission.read() for submission in find_submissions(path, roster)]
    for work in works:
        assert Work.model_validate_json(work.model_dump_json().encode("utf-8")) == work
        assert not any("to its end" in note for note in work.notes)
    assert len({work.student for work in works}) == len(works)
    return {work.student: work for work in works}


def only(path):
    """Return the only work at `path`."""
    (work,) = read(path).values()
    return work


def code(work):
    """Return the sources of a work's cells."""
    return [cell.source for cell in work.cells]


# ------------------------------------------------------------------------------------- who is found


def test_a_file_a_folder_and_a_zip_are_one_student_each(tmp_path):
    put(tmp_path, {"Bo.ipynb": notebook("b"), "ada/work/01_ddpm.ipynb": notebook("a", "aa")})
    put(tmp_path, {"cy.zip": packed(("01_ddpm.ipynb", notebook("c")))})
    works = read(tmp_path)
    assert list(works) == ["ada", "Bo", "cy"]
    assert [(cell.name, cell.source) for cell in works["ada"].cells] == [
        ("cell 2", "a"),
        ("cell 3", "aa"),
    ]
    assert [code(work) for work in works.values()] == [["a", "aa"], ["b"], ["c"]]
    assert works["ada"].files == ("ada/work/01_ddpm.ipynb",) and works["cy"].files == (
        "cy.zip/01_ddpm.ipynb",
    )
    assert not any(work.notes for work in works.values())


def test_a_zip_of_a_class_is_read_like_its_folder(tmp_path):
    files = {
        "bo.ipynb": notebook("b"),
        "ada/01_ddpm.ipynb": notebook("a"),
        "ada/.course/quiz-ddpm.json": json.dumps(ANSWERS),
        "ada/week 2/02_vit.ipynb": notebook("aa"),
        "cy.zip": packed(("cy/01_ddpm.ipynb", notebook("c"))),
        "dee/": b"",
        "README.md": "no student",
        "grades.csv": "no student",
        ".DS_Store": "no student",
        ".git/x.ipynb": notebook("no student"),
        "__MACOSX/ada/._x.ipynb": notebook("no student"),
        ".ipynb_checkpoints/bo.ipynb": notebook("no student"),
        "ada/.ipynb_checkpoints/01_ddpm.ipynb": notebook("old"),
        "ada/.course/no.ipynb": notebook("hidden"),
        "ada/notes.txt": "not read",
    }
    folder = put(
        tmp_path / "class", {name: data for name, data in files.items() if not name.endswith("/")}
    )
    (folder / "dee").mkdir()
    put(tmp_path, {"flat.zip": packed(*files.items())})
    put(tmp_path, {"deep.zip": packed(*[(f"week 3/{name}", data) for name, data in files.items()])})
    works = read(folder)
    assert list(works) == ["ada", "bo", "cy", "dee"]
    assert works == read(tmp_path / "flat.zip") == read(tmp_path / "deep.zip")
    assert works["ada"].answers == {"ddpm": ANSWERS} and code(works["ada"]) == ["a", "aa"]
    assert works["dee"].notes == ("No notebook was found in dee.",)
    assert [cell.name for cell in works["ada"].cells] == [
        "01_ddpm.ipynb, cell 2",
        "week 2/02_vit.ipynb, cell 2",
    ]


def test_one_notebook_is_one_submission(tmp_path):
    put(tmp_path, {"ada.IPYNB": notebook("a"), "bo.ipynb": notebook("b")})
    assert list(read(tmp_path / "ada.IPYNB")) == ["ada"]


def test_a_link_that_the_instructor_names_is_followed(tmp_path):
    put(tmp_path, {"real/ada.ipynb": notebook("a"), "z.zip": packed(("ada.ipynb", notebook("a")))})
    for name, target in {
        "class": "real",
        "class.zip": "z.zip",
        "ada.ipynb": "real/ada.ipynb",
    }.items():
        (tmp_path / name).symlink_to(tmp_path / target)
        assert code(read(tmp_path / name)["ada"]) == ["a"]


@pytest.mark.parametrize(
    ("files", "path", "said"),
    [
        ({}, "nowhere", "there is nothing at"),
        (
            {"README.md": "x", "roster.csv": "x", ".a.ipynb": "x", "quiz-ddpm.json": "{}"},
            "",
            "holds no submissions",
        ),
        ({"ada.txt": "x"}, "ada.txt", "expected a folder, a .zip or an .ipynb, got"),
        ({"a.zip": packed(("ada.ipynb", b"x"))[:-30]}, "a.zip", "cannot be read as a zip"),
        (
            {"a.zip": packed(("README.md", b"x"), (".y/z.ipynb", b""))},
            "a.zip",
            "holds no submissions",
        ),
        ({"a.zip": b""}, "a.zip", "cannot be read as a zip"),
    ],
)
def test_a_place_without_submissions_is_the_instructors_error(tmp_path, files, path, said):
    with pytest.raises(ValueError) as caught:
        find_submissions(put(tmp_path, files) / path)
    assert said in str(caught.value) and str(tmp_path) in str(caught.value)


def test_submissions_cannot_be_in_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "class.zip")
    with pytest.raises(ValueError, match=r"expected a folder, a \.zip or an \.ipynb, got"):
        find_submissions(tmp_path / "class.zip")


# -------------------------------------------------------------------------------------------- names


def test_entries_of_the_same_name_stay_apart(tmp_path):
    put(tmp_path, {"ada.ipynb": notebook("1"), "ada.zip": packed(("x.ipynb", notebook("2")))})
    put(
        tmp_path,
        {"ada/x.ipynb": notebook("3"), "Ada.ipynb": notebook("4"), "bo.ipynb": notebook("5")},
    )
    put(tmp_path, {"ada.ipynb.zip": packed()})
    works = read(tmp_path)
    found = {student: "".join(code(work)) for student, work in works.items()}
    assert found == {
        "ada": "3",
        "Ada.ipynb": "4",
        "ada.ipynb": "1",
        "ada.ipynb.zip": "",
        "ada.zip": "2",
        "bo": "5",
    }
    assert works["ada.zip"].notes == (
        "Another submission is called ada, too; this one is ada.zip.",
    )
    assert works["bo"].notes == ()
    assert len({slug(student) for student in works}) == 6


def test_a_name_is_the_same_however_its_accents_are_written(tmp_path):
    for form in ("NFC", "NFD"):
        put(tmp_path, {unicodedata.normalize(form, "Zoé.ipynb"): notebook(form)})
    works = read(tmp_path)
    assert sorted(works) == ["Zoé.ipynb", "Zoé.ipynb (2)"]
    assert all(unicodedata.is_normalized("NFC", student) for student in works)
    assert sorted("".join(code(work)) for work in works.values()) == ["NFC", "NFD"]


def test_two_members_of_a_zip_with_one_name_are_two_students(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        put(
            tmp_path,
            {"class.zip": packed(("ada.ipynb", notebook("1")), ("ada.ipynb", notebook("2")))},
        )
    works = read(tmp_path / "class.zip")
    assert {student: code(work) for student, work in works.items()} == {
        "ada.ipynb": ["1"],
        "ada.ipynb (2)": ["2"],
    }


@pytest.mark.parametrize(
    ("name", "student"),
    [
        ("李小龍.ipynb", "李小龍"),
        ("Ωmega Ünal (1).ipynb", "Ωmega Ünal (1)"),
        ("<script>alert(1)<", "<script>alert(1)<"),
        ("a\nb\x1b[31m\x7f.ipynb", "a\ufffdb\ufffd[31m\ufffd"),
        ("\u202egpj.ipynb", "\ufffdgpj"),
        (b"caf\xe9.ipynb".decode("utf-8", "surrogateescape"), "caf\ufffd"),
        ("C:\\Users\\ada.ipynb", "C:\\Users\\ada"),
        (" .ipynb", "(no name)"),
        ("x" * 249 + ".ipynb", "x" * 79 + "\u2026" + "x" * 34),
        ("\U0001f469\u200d\U0001f680.ipynb", "\U0001f469\u200d\U0001f680"),
    ],
)
def test_a_name_on_the_disk_is_shown_safely(tmp_path, name, student):
    if name.endswith(".ipynb"):
        put(tmp_path, {name: notebook("x")})
    else:
        put(tmp_path / name, {"x.ipynb": notebook("x")})
    work = only(tmp_path)
    assert (work.student, code(work)) == (student, ["x"])


def test_long_names_that_look_alike_when_cut_stay_apart(tmp_path):
    files = {f"{'x' * 150}{n}{'y' * 50}.ipynb": notebook(str(n)) for n in range(3)}
    works = read(put(tmp_path, files))
    assert len(works) == 3 and sorted("".join(code(work)) for work in works.values()) == [
        "0",
        "1",
        "2",
    ]


SLUGS = {
    "ada": "ada",
    "ada-lovelace-2": "ada-lovelace-2",
    "Ada": "ada-",
    "Ada Lovelace": "ada-lovelace-",
    "Zoé": "zoe-",
    "李小龍": "student-",
    "": "student-",
    "..": "student-",
    "../../etc/passwd": "etc-passwd-",
    "C:\\x": "c-x-",
    "con": "con-",
    "com1": "com1-",
    "Nul": "nul-",
    "com¹": "com1-",
    "-ada": "ada-",
    "x" * 51: "x" * 51,
    "x" * 52: "x" * 51 + "-",
    "ada-0123abcd": "ada-0123abcd-",
    "0123abcd": "0123abcd-",
    "\ud800": "student-",
}


@pytest.mark.parametrize(("student", "start"), SLUGS.items())
def test_a_slug_is_a_folder_name_everywhere(student, start):
    made = slug(student)
    assert made == slug(student) and made.startswith(start)
    assert (
        0 < len(made) <= 60
        and set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        and made[0] != "-"
    )
    assert len(made) == len(start) + 8 * start.endswith("-")


def test_slugs_differ_where_names_do():
    names = {
        *SLUGS,
        "Ada lovelace",
        "ada_lovelace",
        "ada lovelace",
        "ADA",
        "zoe",
        "Zoe",
        "ada-",
        "1",
        "01",
        "a" * 60,
    }
    names |= {slug(name) for name in names}  # a student may be named like another's slug
    assert len({slug(name) for name in names}) == len(names)


def test_students_never_share_a_slug(tmp_path, monkeypatch):
    monkeypatch.setattr(
        submissions, "slug", lambda student: "x" if student in ("y", "y.ipynb") else student
    )
    works = read(put(tmp_path, {"x.ipynb": notebook("1"), "y.ipynb": notebook("2")}))
    assert {student: code(work) for student, work in works.items()} == {
        "x": ["1"],
        "y.ipynb (2)": ["2"],
    }


# ------------------------------------------------------------------------------------------- roster


def with_roster(tmp_path, text, files=None):
    """Return the works of a class with this roster, by student."""
    put(tmp_path, {"roster.csv": text})
    everyone = {
        "s1.ipynb": notebook("1"),
        "s2.zip": packed(("x.ipynb", notebook("2"))),
        "s3/x.ipynb": notebook("3"),
    }
    return read(put(tmp_path / "class", files or everyone), tmp_path / "roster.csv")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_roster_names_students_and_keeps_their_details(tmp_path, separator, mark):
    rows = (
        ["ID", "submission", "Student", "Email"],
        ["7", "s1", "Ada", "a@b.c"],
        ["8", "s2.zip", '"B, ;\tJr."', ""],
    )
    text = "\r\n".join(separator.join(row) for row in rows)
    works = with_roster(tmp_path, mark + text + "\r\n\r\n")
    assert list(works) == ["Ada", "B, ;\ufffdJr.", "s3"]
    assert list(works["Ada"].details.items()) == [("ID", "7"), ("Email", "a@b.c")]
    assert works["Ada"].notes == () and code(works["B, ;\ufffdJr."]) == ["2"]
    assert works["s3"].notes == ("s3 is not in the roster.",) and works["s3"].details == {}


def test_several_entries_of_a_student_are_joined(tmp_path):
    text = "submission,student,ID\ns3,Ada,7\ns1.ipynb,Ada,7\ns2,Bo,8\n"
    works = with_roster(tmp_path, text)
    assert list(works) == ["Ada", "Bo"]
    assert [cell.name for cell in works["Ada"].cells] == ["s1.ipynb, cell 2", "s3/x.ipynb, cell 2"]
    assert code(works["Ada"]) == ["1", "3"] and works["Ada"].details == {"ID": "7"}


def test_a_student_without_a_submission_is_not_forgotten(tmp_path):
    works = with_roster(tmp_path, "student,submission\nAda,s1\nBo,\nCy,s9\nDee,s2\nEve,s3\nFay,\n")
    assert list(works) == ["Ada", "Bo", "Cy", "Dee", "Eve", "Fay"]
    for student in ("Bo", "Cy", "Fay"):
        assert works[student].notes == ("Nothing was handed in.",) and works[student].cells == ()


def test_an_entry_cannot_take_the_name_of_someone_in_the_roster(tmp_path):
    works = with_roster(
        tmp_path,
        "submission,student\ns1,Bo\n",
        {"s1.ipynb": notebook("Bo's"), "BO.ipynb": notebook("mine")},
    )
    assert code(works["Bo"]) == ["Bo's"] and code(works["BO.ipynb"]) == ["mine"]
    assert len(works["BO.ipynb"].notes) == 2


def test_a_full_name_in_the_roster_precedes_one_without_its_suffix(tmp_path):
    files = {
        "ada.ipynb": notebook("1"),
        "ada/x.ipynb": notebook("2"),
        "bo.zip.ipynb": notebook("3"),
    }
    works = with_roster(tmp_path, "submission,student\nada,A\nada.ipynb,B\nbo.zip,C\n", files)
    assert {student: code(work) for student, work in works.items()} == {
        "A": ["2"],
        "B": ["1"],
        "C": ["3"],
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected the columns submission and student, none twice; got nothing"),
        (
            "submission,name\ns1,Ada\n",
            "expected the columns submission and student, none twice; got submission, name",
        ),
        ("submission,student,student\n", "none twice"),
        ("submission,student,ID,ID\n", "none twice"),
        (
            "submission,student\ns1,Ada\ns1,Bo\n",
            "line 3: the submission s1 is listed a second time",
        ),
        (
            "submission,student\ns1.ipynb,Ada\ns1,Bo\n",
            "line 3: the submission s1 is listed a second time",
        ),
        (
            "submission,student\ns9,Ada\ns9,Ada\n",
            "line 3: the submission s9 is listed a second time",
        ),
        ("submission,student\ns1,Lovelace, Ada\n", "line 2: expected 2 cells, got 3"),
        ("submission,student\n\ns1,\n", "line 3: expected a student, got an empty cell"),
        (
            "submission,student,ID\ns1,Ada,1\ns2,Ada,2\n",
            "line 3: Ada was listed before with other details",
        ),
        ("submission,student\nt,Ada\n", "line 2: t can be t.ipynb or t.zip"),
        ('submission,student\n"s1,' + "x" * 200_000, "is not CSV: "),
        (b"submission,student\ns1,Zo\xe9\n", "is not text in UTF-8; save it as CSV UTF-8"),
    ],
)
def test_a_roster_that_cannot_be_used_is_the_instructors_error(tmp_path, text, said):
    files = {"s1.ipynb": notebook("1"), "s2.ipynb": notebook("2"), "t.ipynb": b"", "t.zip": b""}
    with pytest.raises(ValueError, match=r"the roster .*roster\.csv") as caught:
        with_roster(tmp_path, text, files)
    assert said in str(caught.value)


def test_a_missing_roster_is_the_instructors_error(tmp_path):
    put(tmp_path, {"ada.ipynb": notebook("1")})
    with pytest.raises(ValueError, match=r"nowhere\.csv cannot be read: No such file"):
        find_submissions(tmp_path, tmp_path / "nowhere.csv")


# ------------------------------------------------------------------------------------- quiz answers


def test_of_several_quiz_answers_the_last_counts(tmp_path):
    put(tmp_path, {f"ada/{n}/quiz-ddpm.json": json.dumps({"n": n}) for n in "ab"})
    put(tmp_path, {"ada/quiz-vit.json": "{}", "ada/x.ipynb": notebook("x")})
    work = only(tmp_path)
    assert work.answers == {"ddpm": {"n": "b"}, "vit": {}}
    assert work.notes == (
        "There are several quiz-ddpm.json; ada/b/quiz-ddpm.json, the last one, counts.",
    )
    assert work.files == (
        "ada/a/quiz-ddpm.json",
        "ada/b/quiz-ddpm.json",
        "ada/quiz-vit.json",
        "ada/x.ipynb",
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "holds no quiz answers: expected a JSON object, got list"),
        (
            "{broken",
            "is not JSON: line 1, column 2 (Expecting property name enclosed in double quotes)",
        ),
        ("", "is empty"),
        ('{"a": "%s"}' % ("x" * 1_000_000), "is 1.1 MB; at most 1 MB are read"),
        (
            '{"a": ' + "[" * 100 + "]" * 100 + "}",
            "is nested more than 100 deep, the most that is read",
        ),
        (b"\xff", "is not text in UTF-8: byte 1 does not belong"),
    ],
)
def test_quiz_answers_of_another_form_are_a_note(tmp_path, content, said):
    put(tmp_path, {"ada/quiz-ddpm.json": content, "ada/x.ipynb": notebook("x")})
    work = only(tmp_path)
    assert (
        work.notes == (f"ada/quiz-ddpm.json {said}.",)
        and work.answers == {}
        and code(work) == ["x"]
    )


def test_quiz_answers_can_be_written_again_whatever_they_hold(tmp_path):
    content = (
        '{"\\ud800": ["\\udfff\\u0000", NaN, -Infinity, 1e999, %s, 9007199254740993], "deep": %s}'
    )
    put(tmp_path, {"ada/quiz-ddpm.json": content % ("9" * 5000, "[" * 98 + "]" * 98)})
    answers = only(tmp_path).answers["ddpm"]
    assert answers["\ufffd"] == ["\ufffd\ufffd", None, None, None, None, 9007199254740993]


@pytest.mark.parametrize(
    "name", ["quiz-a b.json", "quiz-.json", "quiz-<b>.json", "Quiz-a.json", "quiz-a.json.txt"]
)
def test_files_with_other_names_are_not_quiz_answers(tmp_path, name):
    put(tmp_path, {f"ada/{name}": "{}", "ada/x.ipynb": notebook("x")})
    assert only(tmp_path).answers == {} and only(tmp_path).notes == ()


# ------------------------------------------------------------------------------------------- limits


def measured(path):
    """Return the only work at `path` and the most bytes that reading it took at once."""
    tracemalloc.start()
    try:
        return only(path), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_notebook_of_100_mb_becomes_a_note(tmp_path):
    put(tmp_path, {"ada.ipynb": notebook("a"), "bo/x.ipynb": notebook("b")})
    with open(tmp_path / "bo" / "big.ipynb", "wb") as file:
        file.truncate(104_000_000)
    works = read(tmp_path)
    assert works["bo"].notes == ("bo/big.ipynb is 104 MB; at most 20 MB are read.",)
    assert [cell.name for cell in works["bo"].cells] == ["x.ipynb, cell 2"] and works[
        "ada"
    ].notes == ()


def test_the_largest_notebook_is_read(tmp_path):
    small = notebook("x")
    put(tmp_path, {"ada.ipynb": small + b" " * (reading.MAX_NOTEBOOK_BYTES - len(small))})
    assert code(only(tmp_path)) == ["x"]
    put(tmp_path, {"ada.ipynb": small + b" " * (reading.MAX_NOTEBOOK_BYTES + 1 - len(small))})
    assert only(tmp_path).notes[0] == "ada.ipynb is 20.1 MB; at most 20 MB are read."


def test_a_zip_bomb_is_refused_while_it_unpacks(tmp_path):
    put(
        tmp_path,
        {"ada.zip": packed(("bomb.ipynb", bytes(300_000_000)), ("x.ipynb", notebook("x")))},
    )
    work, peak = measured(tmp_path)
    assert work.notes == (
        "ada.zip/bomb.ipynb holds more than 20 MB, the most that is read.",
    ) and code(work) == ["x"]
    assert peak < 60_000_000


def test_a_bomb_within_a_zip_stops_at_the_limit_of_the_submission(tmp_path):
    inner = packed(("bomb.ipynb", bytes(110_000_000)), form=ZIP_STORED)
    put(
        tmp_path,
        {
            "ada.zip": packed(
                ("a.ipynb", notebook("a")), ("b.zip", inner), ("c.ipynb", notebook("c"))
            )
        },
    )
    work = only(tmp_path)
    assert work.notes == (
        "More than 100 MB were handed in, unpacked; ada.zip/b.zip and what follows were not read.",
    )
    assert code(work) == ["a"]


def test_a_declared_size_is_not_believed(tmp_path):
    data = bytearray(packed(("x.ipynb", notebook("x" * 100)), form=ZIP_STORED))
    listing = data.index(b"PK\1\2")
    notes = []
    for size in (0, 1, 4_000_000_000):
        data[listing + 24 : listing + 28] = struct.pack("<I", size)
        notes += [only(put(tmp_path, {"ada.zip": bytes(data)})).notes]
    # If the size is too small, the file is damaged; if it is too large, what is there is read.
    assert [len(each) for each in notes] == [1, 1, 0]


def test_members_that_overlap_cost_no_more_than_the_limit(tmp_path, monkeypatch):
    """One compressed body is listed 90 times under as many names.

    Each is read, or refused, within the budget.
    """
    monkeypatch.setattr(reading, "MAX_SUBMISSION_BYTES", 1_000_000)
    data = packed(("000.ipynb", notebook("x" * 100_000)))
    listing = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entry = data[listing:end]
    entries = b"".join(entry.replace(b"000.ipynb", b"%03d.ipynb" % n) for n in range(90))
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 90, 90, len(entries), listing, 0)
    put(tmp_path, {"ada.zip": data[:listing] + entries + tail})
    work = only(tmp_path)
    assert len(work.cells) <= 10 and len(work.notes) <= reading.MAX_NOTES and work.notes


def test_the_hundred_and_first_file_is_not_read(tmp_path):
    put(tmp_path, {f"ada/{n:03}.ipynb": notebook(str(n)) for n in range(102)})
    work = only(tmp_path)
    assert code(work) == [str(n) for n in range(100)]
    assert work.notes == (
        "More than 100 files were handed in; ada/100.ipynb and what follows were not read.",
    )


def test_the_number_of_notes_is_limited(tmp_path):
    put(
        tmp_path, {"ada.zip": packed(*[(f"../{'d/' * 500}{n:05}.ipynb", b"") for n in range(2000)])}
    )
    notes = only(tmp_path).notes
    assert all(len(note) < 600 for note in notes)
    assert len(notes) == reading.MAX_NOTES and notes[-1] == "There are 1,952 further notes."


def test_the_code_of_all_notebooks_together_is_limited(tmp_path):
    put(tmp_path, {"ada/a.ipynb": notebook("a" * 600_000), "ada/b.ipynb": notebook("b" * 600_000)})
    put(tmp_path, {"ada/c.ipynb": notebook("c")})
    put(tmp_path, {f"bo/{name}.ipynb": notebook(*[name] * 3000) for name in "ab"})
    works = read(tmp_path)
    assert [source[0] for source in code(works["ada"])] == ["a", "c"]
    said = "was not read: all notebooks together"
    assert works["ada"].notes == (f"ada/b.ipynb {said} hold more than 1,000,000 bytes of code.",)
    assert works["bo"].notes[-1] == f"bo/b.ipynb {said} have more than 5,000 cells."


def test_folders_are_read_to_a_depth_of_ten(tmp_path):
    ten = "/".join("abcdefghij")
    eleven = "/".join("abcdefghijk")
    files = {
        f"{ten}/x.ipynb": notebook("10"),
        f"{eleven}/x.ipynb": notebook("11"),
        "z.ipynb": notebook("0"),
    }
    work = only(put(tmp_path / "class", {f"ada/{name}": data for name, data in files.items()}))
    assert code(work) == ["10", "0"]
    assert work.notes == (f"ada/{eleven} is more than 10 folders deep and was not read.",)
    work = only(put(tmp_path / "zips", {"ada.zip": packed(*files.items())}))
    assert code(work) == ["10", "0"]
    assert work.notes == (
        f"ada.zip/{eleven}/x.ipynb is more than 10 folders deep and was not read.",
    )


def test_a_zip_that_lists_files_without_end_is_refused(tmp_path):
    file = BytesIO()
    with ZipFile(file, "w") as archive:
        for n in range(80_000):
            archive.writestr(ZipInfo(f"{n:060}"), b"")
    put(
        tmp_path, {"a/ada.zip": file.getvalue(), "b/bo.zip": packed(("inner.zip", file.getvalue()))}
    )
    work, peak = measured(tmp_path / "a")
    assert work.notes[0] == "ada.zip lists more files than are read." and peak < 1_000_000
    assert only(tmp_path / "b").notes[0] == "bo.zip/inner.zip lists more files than are read."


# ------------------------------------------------------------------------------- hostile and broken


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "ada.zip is not a zip that can be read."),
        (b"not a zip" * 100, "ada.zip is not a zip that can be read."),
        (packed(("x.ipynb", notebook("x")))[:-40], "ada.zip is not a zip that can be read."),
        (packed(), "No notebook was found in ada.zip."),
    ],
)
def test_a_bad_zip_becomes_a_note(tmp_path, data, said):
    put(tmp_path, {"ada.zip": data, "bo.ipynb": notebook("b")})
    put(tmp_path, {"class.zip": packed(("ada.zip", data), ("bo.ipynb", notebook("b")))})
    for works in (read(tmp_path / "class.zip"), read(tmp_path)):
        assert said in works["ada"].notes and code(works["bo"]) == ["b"] and works["bo"].notes == ()


def damaged(data, at):
    """Return a zip with a byte of its content changed."""
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


def encrypted(data):
    """Return a zip with a member that claims to be encrypted."""
    for head, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.index(head) + offset
        data = data[:at] + bytes([data[at] | 1]) + data[at + 1 :]
    return data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            damaged(packed(("a.ipynb", notebook("a" * 99)), form=ZIP_STORED), 90),
            "is damaged in its zip",
        ),
        (damaged(packed(("a.ipynb", notebook("a" * 99))), 45), "is damaged in its zip"),
        (encrypted(packed(("a.ipynb", notebook("a")))), "is encrypted"),
        (
            packed(("a.ipynb", notebook("a")), form=ZIP_BZIP2),
            "is compressed in an unusual way; plain zips are read",
        ),
        (
            packed(("a.ipynb", notebook("a")), form=ZIP_LZMA),
            "is compressed in an unusual way; plain zips are read",
        ),
        (
            packed(("../a.ipynb", notebook("a"))),
            "has a name that leads out of its folder and was not read",
        ),
        (
            packed(("b/../../a.ipynb", notebook("a"))),
            "has a name that leads out of its folder and was not read",
        ),
        (
            packed(("..\\..\\a.ipynb", notebook("a"))),
            "has a name that leads out of its folder and was not read",
        ),
    ],
)
def test_a_bad_member_of_a_zip_costs_only_itself(tmp_path, data, said):
    with ZipFile(file := BytesIO(data), "a") as archive:
        archive.writestr("z.ipynb", notebook("z"))
    put(tmp_path, {"in/ada.zip": file.getvalue()})
    work = only(tmp_path / "in")
    assert [note for note in work.notes if f"a.ipynb {said}." in note] == list(work.notes) != []
    assert code(work) == ["z"] and sorted(p.name for p in tmp_path.rglob("*")) == ["ada.zip", "in"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/etc/a.ipynb", "etc/a.ipynb"),
        ("//server/share/a.ipynb", "server/share/a.ipynb"),
        ("C:\\work\\a.ipynb", "C:/work/a.ipynb"),
        (".//./a.ipynb", "a.ipynb"),
        ("a\u202eb\nc.ipynb", "a\ufffdb\ufffdc.ipynb"),
        ("con.ipynb", "con.ipynb"),
        ("x" * 60_000 + ".ipynb", "x" * 79 + "\u2026" + "x" * 34 + ".ipynb"),
    ],
)
def test_names_in_a_zip_are_only_shown(tmp_path, name, shown):
    put(tmp_path, {"in/ada.zip": packed((name, notebook("x")))})
    work = only(tmp_path / "in")
    assert work.files == (f"ada.zip/{shown}",) and code(work) == ["x"] and work.notes == ()


def test_names_made_to_be_slow_take_little_time(tmp_path):
    piled = "a" + "\u0301" * 15_000 + "\u0316" * 15_000
    nested = "d/" * 30_000
    put(
        tmp_path,
        {
            "ada.zip": packed(
                *[(f"{piled}{n}.ipynb", b"") for n in range(50)], (f"{nested}x.ipynb", b"")
            )
        },
    )
    start = time.process_time()
    assert len(only(tmp_path).notes) == reading.MAX_NOTES
    # It takes hundredths of a second, and would take minutes if whole names were normalized.
    assert time.process_time() - start < 5


def test_a_member_without_a_name_does_no_harm(tmp_path):
    put(
        tmp_path,
        {"ada.zip": packed(("", b"x"), ("a.zip\\", b""), ("/", b""), ("x.ipynb", notebook("x")))},
    )
    assert code(only(tmp_path)) == ["x"] and only(tmp_path).notes == ()


def test_names_that_lead_out_of_a_zip_of_a_class_belong_to_nobody(tmp_path):
    put(tmp_path, {"out.zip": packed(("../bo.ipynb", notebook("b")))})
    assert code(only(tmp_path / "out.zip")) == []
    members = (
        "../bo.ipynb",
        "ada/../bo/x.ipynb",
        "..\\..\\bo.ipynb",
        "/bo/y.ipynb",
        "bo/x.ipynb",
        "ada/a.ipynb",
    )
    put(tmp_path, {"class.zip": packed(*[(name, notebook(name)) for name in members])})
    works = read(tmp_path / "class.zip")
    assert {student: code(work) for student, work in works.items()} == {
        "(no name)": [],
        "ada": ["ada/a.ipynb"],
        "bo": ["bo/x.ipynb", "/bo/y.ipynb"],
    }
    assert works["ada"].notes == (
        "ada/../bo/x.ipynb has a name that leads out of its folder and was not read.",
    )
    assert (
        works["(no name)"].notes[0]
        == "../../bo.ipynb has a name that leads out of its folder and was not read."
    )


def test_a_zip_within_a_zip_is_read_and_one_within_that_is_not(tmp_path):
    third = packed(("c.ipynb", notebook("c")))
    second = packed(("b.ipynb", notebook("b")), ("third.zip", third))
    put(tmp_path, {"in/ada.zip": packed(("a.ipynb", notebook("a")), ("second.zip", second))})
    work = only(tmp_path / "in")
    assert code(work) == ["a", "b"]
    assert work.notes == (
        "ada.zip/second.zip/third.zip is a zip within 2 others and was not read.",
    )
    moodle = packed(
        ("Ada_1_file_/01_ddpm-hand-in.zip", third), ("Bo_2_file_/c.ipynb", notebook("c"))
    )
    works = read(put(tmp_path, {"class.zip": moodle}) / "class.zip")
    assert {student: code(work) for student, work in works.items()} == {
        "Ada_1_file_": ["c"],
        "Bo_2_file_": ["c"],
    }


def test_a_zip_that_contains_itself_has_an_end(tmp_path):
    inner = b""
    for _ in range(30):
        inner = packed(("x.ipynb", notebook("x")), ("y.zip", inner))
    work = only(put(tmp_path, {"ada.zip": inner}))
    assert code(work) == ["x", "x"] and len(work.notes) == 1


def test_links_are_not_followed(tmp_path):
    secret = put(tmp_path / "secret", {"solution.ipynb": notebook("the solution")})
    folder = put(tmp_path / "class", {"ada/x.ipynb": notebook("x"), "bo.ipynb": notebook("b")})
    (folder / "ada" / "link.ipynb").symlink_to(secret / "solution.ipynb")
    (folder / "ada" / "more").symlink_to(secret)
    (folder / "cy").symlink_to(secret)
    (folder / "dee.ipynb").symlink_to(folder / "bo.ipynb")
    (folder / "eve.zip").symlink_to("/dev/zero")
    (folder / "stray").symlink_to(folder / "bo.ipynb")
    works = read(folder)
    assert list(works) == ["ada", "bo", "cy", "dee", "eve"]
    assert {source for work in works.values() for source in code(work)} == {"x", "b"}
    links = {
        "ada": ["ada/link.ipynb", "ada/more"],
        "cy": ["cy"],
        "dee": ["dee.ipynb"],
        "eve": ["eve.zip"],
    }
    for student, names in links.items():
        notes = [f"{name} is a symbolic link, which is not followed." for name in names]
        assert list(works[student].notes[: len(names)]) == notes


def test_a_link_in_a_zip_is_not_followed(tmp_path):
    link = ZipInfo("link.ipynb")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    put(tmp_path, {"ada.zip": packed((link, b"/etc/passwd"), ("x.ipynb", notebook("x")))})
    work = only(tmp_path)
    assert work.notes == (
        "ada.zip/link.ipynb is a symbolic link, which is not followed.",
    ) and code(work) == ["x"]


def test_pipes_and_devices_are_never_opened(tmp_path):
    put(tmp_path, {"ada/x.ipynb": notebook("x")})
    for name in ("ada/pipe.ipynb", "ada/quiz-ddpm.json", "ada/pipe.zip", "bo.ipynb"):
        os.mkfifo(tmp_path / name)
    works = read(tmp_path)  # opening it would wait forever
    assert code(works["ada"]) == ["x"] and len(works["ada"].notes) == 3
    assert works["bo"].notes[0] == "bo.ipynb is neither a file nor a folder."


def test_a_file_that_turns_into_a_pipe_or_a_link_is_not_read(tmp_path, monkeypatch):
    put(tmp_path, {"ada.ipynb": notebook("x")})
    (submission,) = find_submissions(tmp_path)
    status = os.lstat(tmp_path / "ada.ipynb")
    (tmp_path / "ada.ipynb").unlink()
    os.mkfifo(tmp_path / "ada.ipynb")
    monkeypatch.setattr(reading.os, "lstat", lambda path: status)
    assert submission.read().notes[0] == "ada.ipynb is not a regular file."
    (tmp_path / "ada.ipynb").unlink()
    (tmp_path / "ada.ipynb").symlink_to("/etc/hostname")
    assert submission.read().notes[0].startswith("ada.ipynb cannot be read: ")


def test_files_that_vanish_become_a_note(tmp_path):
    files = {
        "ada.ipynb": notebook("x"),
        "bo/x.ipynb": notebook("x"),
        "cy.zip": packed(("x.ipynb", notebook("x"))),
    }
    folder = put(tmp_path / "class", files)
    put(tmp_path, {"class.zip": packed(*files.items())})
    found = [*find_submissions(folder), *find_submissions(tmp_path / "class.zip")]
    for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
        path.unlink()
    (folder / "bo").rmdir()
    assert all("No such file or directory." in submission.read().notes[0] for submission in found)


def test_a_zip_of_a_class_that_changes_meanwhile_becomes_a_note(tmp_path):
    put(tmp_path, {"class.zip": packed(*[(f"{n}.ipynb", notebook("x")) for n in range(3)])})
    found = find_submissions(tmp_path / "class.zip")
    put(tmp_path, {"class.zip": packed(("0.ipynb", notebook("x")))})
    assert [bool(submission.read().cells) for submission in found] == [True, False, False]


@pytest.mark.parametrize("function", ["open", "listdir", "lstat"])
def test_what_may_not_be_read_becomes_a_note(tmp_path, monkeypatch, function):
    put(tmp_path, {"ada/x.ipynb": notebook("x"), "bo/x.ipynb": notebook("x")})
    found = find_submissions(tmp_path)
    real = getattr(os, function)

    def refuse(path, *arguments):
        """Raise an error of permission for Ada's files."""
        if "ada" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments)

    monkeypatch.setattr(reading.os, function, refuse)
    works = [submission.read() for submission in found]
    assert works[0].notes[0].endswith("cannot be read: Permission denied.") and code(works[1]) == [
        "x"
    ]
    assert str(tmp_path) not in works[0].model_dump_json()


def test_a_fault_of_the_course_affects_one_student(tmp_path, monkeypatch):
    put(tmp_path, {"ada.ipynb": b"{}", "bo.ipynb": notebook("x")})
    real = reading.read_notebook
    monkeypatch.setattr(
        reading, "read_notebook", lambda data: {}[1] if data == b"{}" else real(data)
    )
    works = [submission.read() for submission in find_submissions(tmp_path)]
    assert works[0].notes == ("ada.ipynb was not read to its end: KeyError.",) and code(
        works[1]
    ) == ["x"]


def test_a_notebook_without_code_becomes_a_note(tmp_path):
    put(tmp_path, {"ada.ipynb": notebook()})
    assert only(tmp_path).notes == ("ada.ipynb holds no code.",)


def test_a_submission_can_be_sent_to_another_process(tmp_path):
    put(tmp_path, {"class.zip": packed(("ada/x.ipynb", notebook("x")))})
    (submission,) = find_submissions(tmp_path / "class.zip")
    assert pickle.loads(pickle.dumps(submission)).read() == submission.read()


def test_a_deep_call_stack_reads_the_same(tmp_path):
    put(tmp_path, {"ada.zip": packed(("a/b/c/x.ipynb", notebook("x")))})
    (submission,) = find_submissions(tmp_path)

    def call(depth):
        """Read the class from so many calls deep."""
        return call(depth - 1) if depth else submission.read()

    assert call(sys.getrecursionlimit() // 2) == call(0)

"""Exports, parsed back by small readers that know the formats and nothing of the writer."""

import html
import re
import sqlite3
import xml.etree.ElementTree as ET
import zipfile

import pytest
import yaml

from course_lib.classroom.bank import load_bank
from course_lib.classroom.quiz_export import PACKAGE, QTI, export

HARD = {
    "topic": "hard",
    "title": "Signs = {all} of # them: ~",
    "questions": [
        {
            "id": "one",
            "kind": "single",
            "prompt": "Is `a = b ~ c`, {x: #1} or <b> & -> so?",
            "source": "Section 1: signs",
            "options": [
                {"text": "= {yes}", "correct": True, "feedback": "Right # indeed: ~"},
                {"text": "~ no -> \\ never", "feedback": "Wrong = so"},
            ],
        },
        {
            "id": "many",
            "kind": "multiple",
            "prompt": "Which?",
            "source": "s",
            "options": [
                {"text": t, "correct": t in "abc", "feedback": f"about {t}"} for t in "abcde"
            ],
        },
        {
            "id": "number",
            "kind": "numeric",
            "prompt": "How much?",
            "source": "s",
            "answer": -0.02,
            "tolerance": 0.0001,
            "feedback_right": "yes: so",
            "feedback_wrong": "no ~ not",
        },
        {
            "id": "order",
            "kind": "ordering",
            "prompt": "Order?",
            "source": "s",
            "items": [{"text": f"item {t} = {{x}}", "feedback": f"why {t}"} for t in "wxyz"],
        },
    ],
    "flashcards": [{"id": "card", "front": "*f* & <f>", "back": "b", "source": "s"}],
}


@pytest.fixture
def bank(tmp_path):
    (tmp_path / "hard.yaml").write_text(yaml.safe_dump(HARD), encoding="utf-8")
    return load_bank("hard", tmp_path)


# --------------------------------------------------------------------------------------------- GIFT


def read_gift(text):
    """{id: (prompt, body)} with the escapes of prompt and body still in place."""
    blocks = [b for b in re.split(r"\n\s*\n", text) if b.startswith("::")]
    pattern = re.compile(
        r"::((?:\\.|[^\\])*?)::\[html\]((?:\\.|[^\\{])*)\{((?:\\.|[^\\}])*)\}\s*$", re.S
    )
    return {m[1]: (m[2], m[3]) for m in map(pattern.match, blocks)}


def answers(body):
    """(sign, weight, text, feedback) of every answer of a GIFT body, read sign by sign."""
    found, field, i = [], None, 0
    while i < len(body):
        sign = body[i]
        if sign in "=~":
            weight = re.match(r"%(-?[\d.]+)%", body[i + 1 :])
            found.append([sign, float(weight[1]) if weight else None, "", ""])
            field, i = 2, i + (len(weight[0]) if weight else 0)
        elif sign == "#" and found:
            field = 3
        else:
            if sign == "\\":
                i, sign = i + 1, body[i + 1]
            if found:
                found[-1][field] += sign
        i += 1
    return [(s, w, html.unescape(t.strip()), html.unescape(f.strip())) for s, w, t, f in found]


def test_gift_reads_back(bank, tmp_path):
    questions = read_gift(
        export(bank, "gift", tmp_path / "out" / "hard.gift").read_text(encoding="utf-8")
    )
    assert list(questions) == ["one", "many", "number", "order"]

    prompt, body = questions["one"]
    said = html.unescape(re.sub(r"\\(.)", r"\1", prompt))
    assert "<code>a = b ~ c</code>, {x: #1} or <b> & -> so?" in said and "Section 1: signs" in said
    assert answers(body) == [
        ("=", None, "= {yes}", "Right # indeed: ~"),
        ("~", None, "~ no -> \\ never", "Wrong = so"),
    ]

    many = answers(questions["many"][1])
    assert [t for _, w, t, _ in many if w > 0] == ["a", "b", "c"]
    assert sum(w for _, w, _, _ in many if w > 0) == pytest.approx(100, abs=1e-3)
    assert all(w == -100 for _, w, t, _ in many if t in "de")

    body = questions["number"][1]
    assert body.startswith("#")
    right, wrong = answers(body[1:])
    assert right == ("=", None, "-0.02:0.0001", "yes: so") and wrong == ("~", None, "", "no ~ not")

    pairs = [t.split(" -> ") for _, _, t, _ in answers(questions["order"][1])]
    assert [t for t, place in sorted(pairs, key=lambda p: int(p[1]))] == [
        f"item {t} = {{x}}" for t in "wxyz"
    ]
    assert [p for _, p in pairs] != ["1", "2", "3", "4"]


# ---------------------------------------------------------------------------------------------- QTI


def read_qti(path):
    with zipfile.ZipFile(path) as package:
        manifest = ET.fromstring(package.read("imsmanifest.xml"))
        (file,) = manifest.iter(f"{{{PACKAGE}}}file")
        root = ET.fromstring(package.read(file.get("href")))
    return {item.get("ident"): item for item in root.iter(f"{{{QTI}}}item")}


def tag(name):
    return f"{{{QTI}}}{name}"


def holds(test, given):
    name = test.tag.removeprefix(f"{{{QTI}}}")
    inner = [holds(child, given) for child in test]
    if name in ("conditionvar", "and"):
        return all(inner)
    if name in ("or", "not", "other"):
        return {"or": any(inner), "not": not any(inner), "other": True}[name]
    values = given.get(test.get("respident"), [])
    if name == "varequal":
        return test.text in values
    bound = float(test.text)
    return any(float(v) >= bound if name == "vargte" else float(v) <= bound for v in values)


def grade(item, given):
    """Canvas's reading of resprocessing: (score, feedbacks shown)."""
    score, shown = 0.0, []
    for condition in item.iter(tag("respcondition")):
        if not holds(condition.find(tag("conditionvar")), given):
            continue
        for change in condition.iter(tag("setvar")):
            score = float(change.text) + (score if change.get("action") == "Add" else 0)
        shown += [f.get("linkrefid") for f in condition.iter(tag("displayfeedback"))]
        if condition.get("continue") == "No":
            break
    return score, shown


def labels(item):
    return {
        e.get("ident"): e.find(f".//{tag('mattext')}").text
        for e in item.iter(tag("response_label"))
        if len(e)
    }


def test_qti_reads_back_and_grades(bank, tmp_path):
    items = read_qti(export(bank, "qti", tmp_path / "hard.zip"))
    assert list(items) == ["one", "many", "number", "order"]

    one = {html.unescape(text): name for name, text in labels(items["one"]).items()}
    assert grade(items["one"], {"response1": [one["= {yes}"]]})[0] == 100
    score, shown = grade(items["one"], {"response1": [one["~ no -> \\ never"]]})
    assert score == 0 and len(shown) == 1

    many = {text: name for name, text in labels(items["many"]).items()}
    for chosen, score in (("abc", 100), ("ab", 0), ("abcd", 0), ("de", 0), ("", 0)):
        assert grade(items["many"], {"response1": [many[t] for t in chosen]})[0] == score

    for value, score in ((-0.02, 100), (-0.02005, 100), (-0.0202, 0), (0.02, 0)):
        assert grade(items["number"], {"response1": [str(value)]})[0] == score

    groups = list(items["order"].iter(tag("response_lid")))
    texts = {g.get("ident"): g.find(f".//{tag('mattext')}").text for g in groups}
    right = {ident: [f"place-{'wxyz'.index(text[5]) + 1}"] for ident, text in texts.items()}
    assert grade(items["order"], right) == (pytest.approx(100, abs=0.01), [])
    swapped = right | dict(
        zip(list(right)[:2], [right[k] for k in list(right)[1::-1]], strict=True)
    )
    assert grade(items["order"], swapped)[0] == pytest.approx(50, abs=0.01)


def test_every_feedback_that_qti_refers_to_exists(bank, tmp_path):
    for item in read_qti(export(bank, "qti", tmp_path / "hard.zip")).values():
        referred = {f.get("linkrefid") for f in item.iter(tag("displayfeedback"))}
        assert referred == {f.get("ident") for f in item.iter(tag("itemfeedback"))} != set()


def test_qti_is_the_same_to_the_byte(bank, tmp_path):
    first, second = (
        export(bank, "qti", tmp_path / name).read_bytes() for name in ("a.zip", "b.zip")
    )
    assert first == second


# --------------------------------------------------------------------------------------------- Anki


def read_anki(path, folder):
    with zipfile.ZipFile(path) as package:
        package.extract("collection.anki2", folder)
    with sqlite3.connect(folder / "collection.anki2") as database:
        notes = database.execute("select guid, mid, flds, tags from notes").fetchall()
        cards = database.execute("select count(*) from cards").fetchone()[0]
    database.close()
    return notes, cards


def test_anki_reads_back_with_stable_ids(bank, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    notes, cards = read_anki(export(bank, "anki", tmp_path / "a.apkg"), tmp_path / "a")
    again, _ = read_anki(export(bank, "anki", tmp_path / "b.apkg"), tmp_path / "b")
    assert [n[:2] for n in notes] == [n[:2] for n in again]
    assert len(notes) == cards == 5 == len({guid for guid, *_ in notes})
    fields = [flds.split("\x1f") for _, _, flds, _ in notes]
    assert fields[0][:2] == ["<em>f</em> &amp; &lt;f&gt;", "b"]
    assert "= {yes}" in fields[1][1] and "never" not in fields[1][1]
    assert [m[1] for m in re.finditer(r"item (\w)", fields[4][1])] == list("wxyz")
    assert [m[1] for m in re.finditer(r"item (\w)", fields[4][0])] != list("wxyz")


@pytest.mark.parametrize("format", ["gift", "qti", "anki"])
def test_the_course_exports_by_topic(format, tmp_path):
    assert export("start_here", format, tmp_path / "out").stat().st_size > 1000


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected one of gift, qti, anki; got 'pdf'"):
        export("start_here", "pdf", tmp_path / "out")

"""Quiz banks for other programs: Moodle (GIFT), Canvas (a QTI 1.2 package) and Anki (a deck)."""

import hashlib
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

from course_lib.classroom.bank import (
    Bank,
    Choice,
    Numeric,
    Ordering,
    Question,
    load_bank,
    plain,
    rich,
)

QTI = "http://www.imsglobal.org/xsd/ims_qtiasiv1p2"
PACKAGE = "http://www.imsglobal.org/xsd/imsccv1p1/imscp_v1p1"
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # always the same: the same bank gives the same bytes


def export(topic: str | Bank, format: str, path: Path | str) -> Path:
    """Write the bank of a topic as "gift", "qti" or "anki" and return the file's path.

    Flashcards go only to Anki, which is made for them; its deck also holds the questions as cards.
    Raises ValueError for an unknown format or topic.
    """
    writers = {"gift": _write_gift, "qti": _write_qti, "anki": _write_anki}
    if format not in list(writers):
        raise ValueError(f"expected one of {', '.join(writers)}; got {format!r}")
    bank = topic if isinstance(topic, Bank) else load_bank(topic)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    writers[format](bank, path)
    return path


# ------------------------------------------------------------------------------------------- Moodle


def _write_gift(bank: Bank, path: Path) -> None:
    head = [f"// {plain(bank.title)}", f"$CATEGORY: {_gift(bank.topic)}"]
    text = "\n\n".join([*head, *map(_gift_question, bank.questions)])
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def _gift(text: str) -> str:
    """Escape GIFT's control characters; a line break becomes its `\\n`."""
    for sign in "\\~=#{}:":
        text = text.replace(sign, "\\" + sign)
    return text.replace("\n", "\\n")


def _gift_html(text: str) -> str:
    return _gift(rich(text))


def _gift_question(question: Question) -> str:
    prompt = f"{_gift_html(question.prompt)} <small>({_gift_html(question.source)})</small>"
    lines = {Choice: _gift_choice, Numeric: _gift_numeric, Ordering: _gift_ordering}[
        type(question)
    ](question)
    return f"::{_gift(question.id)}::[html]{prompt} {{" + "\n".join(lines) + "\n}"


def _gift_choice(question: Choice) -> list[str]:
    """Write the options, several with weights: right ones share 100 %, a wrong one takes it all."""
    share = 100 / sum(option.correct for option in question.options)
    right, wrong = ("=", "~") if question.kind == "single" else (f"~%{share:.5f}%", "~%-100%")
    lines = [""]
    for option in question.options:
        sign = right if option.correct else wrong
        lines.append(f"\t{sign}{_gift_html(option.text)}#{_gift_html(option.feedback)}")
    return lines


def _gift_numeric(question: Numeric) -> list[str]:
    right = f"\t={question.answer!r}:{question.tolerance!r}#{_gift_html(question.feedback_right)}"
    return ["#", right, f"\t~#{_gift_html(question.feedback_wrong)}"]


def _gift_ordering(question: Ordering) -> list[str]:
    """Match each item with its place: GIFT has no ordering."""
    return ["", *(f"\t={_gift_html(question.items[i].text)} -> {i + 1}" for i in question.start())]


# ------------------------------------------------------------------------------------------- Canvas


def _write_qti(bank: Bank, path: Path) -> None:
    name = f"quiz_{bank.topic}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        files = {"imsmanifest.xml": _manifest(name), f"{name}/{name}.xml": _assessment(bank, name)}
        for file, root in files.items():
            ET.indent(root)
            text = ET.tostring(root, encoding="utf-8", xml_declaration=True)
            package.writestr(zipfile.ZipInfo(file, ZIP_DATE), text, zipfile.ZIP_DEFLATED)


def _manifest(name: str) -> ET.Element:
    root = ET.Element("manifest", {"identifier": f"{name}_manifest", "xmlns": PACKAGE})
    metadata = ET.SubElement(root, "metadata")
    ET.SubElement(metadata, "schema").text = "IMS Content"
    ET.SubElement(metadata, "schemaversion").text = "1.1.3"
    ET.SubElement(root, "organizations")
    resources = ET.SubElement(root, "resources")
    resource = ET.SubElement(resources, "resource", {"identifier": name, "type": "imsqti_xmlv1p2"})
    ET.SubElement(resource, "file", {"href": f"{name}/{name}.xml"})
    return root


def _assessment(bank: Bank, name: str) -> ET.Element:
    root = ET.Element("questestinterop", {"xmlns": QTI})
    assessment = ET.SubElement(root, "assessment", {"ident": name, "title": plain(bank.title)})
    section = ET.SubElement(assessment, "section", {"ident": "root_section"})
    for question in bank.questions:
        section.append(_item(question))
    return root


CANVAS_KINDS = {
    "single": "multiple_choice",
    "multiple": "multiple_answers",
    "numeric": "numerical",
    "ordering": "matching",
}


def _item(question: Question) -> ET.Element:
    item = ET.Element("item", {"ident": question.id, "title": question.id})
    fields = ET.SubElement(ET.SubElement(item, "itemmetadata"), "qtimetadata")
    _field(fields, "question_type", f"{CANVAS_KINDS[question.kind]}_question")
    _field(fields, "points_possible", "1")
    presentation = ET.SubElement(item, "presentation")
    _material(
        presentation,
        f"<p>{rich(question.prompt)}</p><p><small>({rich(question.source)})</small></p>",
    )
    processing = ET.SubElement(item, "resprocessing")
    score = {"maxvalue": "100", "minvalue": "0", "varname": "SCORE", "vartype": "Decimal"}
    ET.SubElement(ET.SubElement(processing, "outcomes"), "decvar", score)
    {Choice: _qti_choice, Numeric: _qti_numeric, Ordering: _qti_ordering}[type(question)](
        question, item, presentation, processing
    )
    return item


def _qti_choice(
    question: Choice, item: ET.Element, presentation: ET.Element, processing: ET.Element
) -> None:
    several = question.kind == "multiple"
    cardinality = "Multiple" if several else "Single"
    group = ET.SubElement(
        presentation, "response_lid", {"ident": "response1", "rcardinality": cardinality}
    )
    labels = ET.SubElement(group, "render_choice")
    options = {f"{question.id}-{i}": option for i, option in enumerate(question.options)}
    for name, option in options.items():
        _material(ET.SubElement(labels, "response_label", {"ident": name}), rich(option.text))
        _equals(_condition(processing, feedback=f"{name}_fb", proceed=True), "response1", name)
        _feedback(item, f"{name}_fb", option.feedback)
    all_of = ET.SubElement(_condition(processing, score="100"), "and")
    for name, option in options.items():
        if option.correct:
            _equals(all_of, "response1", name)
        elif several:
            _equals(ET.SubElement(all_of, "not"), "response1", name)


def _qti_numeric(
    question: Numeric, item: ET.Element, presentation: ET.Element, processing: ET.Element
) -> None:
    response = ET.SubElement(
        presentation, "response_str", {"ident": "response1", "rcardinality": "Single"}
    )
    blank = ET.SubElement(response, "render_fib", {"fibtype": "Decimal"})
    ET.SubElement(blank, "response_label", {"ident": "answer1"})
    within = ET.SubElement(_condition(processing, score="100", feedback="correct_fb"), "or")
    _equals(within, "response1", repr(question.answer))
    both = ET.SubElement(within, "and")
    for tag, sign in (("vargte", -1), ("varlte", 1)):
        bound = question.answer + sign * question.tolerance
        ET.SubElement(both, tag, {"respident": "response1"}).text = f"{bound:.12g}"
    ET.SubElement(_condition(processing, feedback="general_incorrect_fb"), "other")
    _feedback(item, "correct_fb", question.feedback_right)
    _feedback(item, "general_incorrect_fb", question.feedback_wrong)


def _qti_ordering(
    question: Ordering, item: ET.Element, presentation: ET.Element, processing: ET.Element
) -> None:
    """Match each item with its place; every one that is right adds its share."""
    places = [(f"place-{i + 1}", str(i + 1)) for i in range(len(question.items))]
    for i in question.start():
        group = ET.SubElement(presentation, "response_lid", {"ident": f"response_{i}"})
        _material(group, rich(question.items[i].text))
        render = ET.SubElement(group, "render_choice")
        for name, text in places:
            _material(ET.SubElement(render, "response_label", {"ident": name}), text, "text/plain")
        condition = _condition(
            processing, score=f"{100 / len(places):.4f}", action="Add", proceed=True
        )
        _equals(condition, f"response_{i}", places[i][0])
        wrong = ET.SubElement(_condition(processing, feedback=f"item-{i}_fb", proceed=True), "not")
        _equals(wrong, f"response_{i}", places[i][0])
        _feedback(item, f"item-{i}_fb", question.items[i].feedback)


def _condition(
    processing: ET.Element,
    *,
    score: str | None = None,
    feedback: str | None = None,
    action: str = "Set",
    proceed: bool = False,
) -> ET.Element:
    """Add a respcondition with its consequences; return the conditionvar to fill."""
    condition = ET.SubElement(processing, "respcondition", {"continue": "Yes" if proceed else "No"})
    variables = ET.SubElement(condition, "conditionvar")
    if score is not None:
        ET.SubElement(condition, "setvar", {"varname": "SCORE", "action": action}).text = score
    if feedback is not None:
        ET.SubElement(
            condition, "displayfeedback", {"feedbacktype": "Response", "linkrefid": feedback}
        )
    return variables


def _equals(parent: ET.Element, ident: str, value: str) -> None:
    ET.SubElement(parent, "varequal", {"respident": ident}).text = value


def _feedback(item: ET.Element, ident: str, text: str) -> None:
    _material(
        ET.SubElement(ET.SubElement(item, "itemfeedback", {"ident": ident}), "flow_mat"), rich(text)
    )


def _material(parent: ET.Element, text: str, kind: str = "text/html") -> None:
    ET.SubElement(ET.SubElement(parent, "material"), "mattext", {"texttype": kind}).text = text


def _field(fields: ET.Element, label: str, entry: str) -> None:
    field = ET.SubElement(fields, "qtimetadatafield")
    ET.SubElement(field, "fieldlabel").text = label
    ET.SubElement(field, "fieldentry").text = entry


# --------------------------------------------------------------------------------------------- Anki


ANKI_BACK = "{{FrontSide}}<hr id=answer>{{Back}}<p><small>{{Source}}</small></p>"


def _write_anki(bank: Bank, path: Path) -> None:
    import genanki

    model = genanki.Model(
        _stable_number("visual generation course: card"),
        "Visual generation course",
        fields=[{"name": "Front"}, {"name": "Back"}, {"name": "Source"}],
        templates=[{"name": "Card", "qfmt": "{{Front}}", "afmt": ANKI_BACK}],
        css=".card { font: 18px/1.5 sans-serif; max-width: 36em; margin: auto; }",
    )
    deck = genanki.Deck(
        _stable_number(f"deck {bank.topic}"), f"Visual generation::{plain(bank.title)}"
    )
    cards = [(c.id, rich(c.front), rich(c.back), c.source) for c in bank.flashcards]
    cards += [(q.id, _anki_front(q), _anki_back(q), q.source) for q in bank.questions]
    for ident, front, back, source in cards:
        guid = genanki.guid_for(bank.topic, ident)  # imported again, a question is the same card
        deck.add_note(
            genanki.Note(model, fields=[front, back, rich(source)], guid=guid, tags=[bank.topic])
        )
    genanki.Package(deck).write_to_file(str(path), timestamp=0)


def _anki_front(question: Question) -> str:
    if question.kind == "numeric":
        return rich(question.prompt)
    shown = (
        [question.items[i] for i in question.start()]
        if question.kind == "ordering"
        else question.options
    )
    return rich(question.prompt) + _list("ul", [rich(entry.text) for entry in shown])


def _anki_back(question: Question) -> str:
    if question.kind == "numeric":
        return (
            f"<b>{question.answer:g} {rich(question.unit)}</b><br>{rich(question.feedback_right)}"
        )
    if question.kind == "ordering":
        return _list(
            "ol", [f"<b>{rich(item.text)}</b> {rich(item.feedback)}" for item in question.items]
        )
    return _list(
        "ul", [f"<b>{rich(o.text)}</b> {rich(o.feedback)}" for o in question.options if o.correct]
    )


def _list(tag: str, entries: list[str]) -> str:
    return f"<{tag}>" + "".join(f"<li>{entry}</li>" for entry in entries) + f"</{tag}>"


def _stable_number(name: str) -> int:
    """Return a number in Anki's range, from 2^30 below 2^31, always the same for a name."""
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    return int.from_bytes(digest[:4], "big") % 2**30 + 2**30

"""Every link of every chapter leads somewhere, and no place is named without one."""

import re
from functools import cache
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from nbconvert import HTMLExporter

from course_lib import build, paths
from course_lib.build.links import read_chapter

SOURCES = {source.stem: source for source in build.sources()}
CHAPTERS = {source.stem: read_chapter(source) for source in build.sources()}
LINK = re.compile(r'\]\(([^)]+)\)|<a href="([^"]+)"')
APART = re.compile(
    r"```.*?```|\$\$.*?\$\$|\$[^$]+\$|`[^`\n]+`|\[[^\]]*\]\([^)]*\)|<a .*?</a>|<code>.*?</code>",
    re.DOTALL,
)
EACH = pytest.mark.parametrize("stem", SOURCES)


@cache
def edition(stem):
    return build.student_edition(SOURCES[stem])


def texts(stem):
    return [cell.source for cell in edition(stem).cells if cell.cell_type == "markdown"]


def links(stem):
    return [a or b for text in texts(stem) for a, b in LINK.findall(text)]


def headings(stem):
    found = []
    for text in texts(stem):
        found += re.findall(r"^#{1,6} (.+)$", re.sub("```.*?```", "", text, flags=re.DOTALL), re.M)
    return found


def anchors(stem):
    return {heading.strip().replace(" ", "-") for heading in headings(stem)}


@EACH
def test_every_link_leads_somewhere(stem):
    cited = set()
    for path in (paths.ROOT / "course_lib").rglob("*.py"):
        cited.update(re.findall(r"arXiv (\d{4}\.\d{5})", path.read_text(encoding="utf-8")))
    lost = []
    for link in links(stem):
        file, _, fragment = link.partition("#")
        if link.startswith("https://arxiv.org/abs/"):
            found = link.rpartition("/")[2] in cited
        elif link.startswith("https://"):
            found = True
        elif not file or file.endswith(".ipynb"):
            there = file.removesuffix(".ipynb") or stem
            found = there in SOURCES and (not fragment or unquote(fragment) in anchors(there))
        else:
            found = (paths.NOTEBOOKS / file).is_file()
        if not found:
            lost.append(link)
    assert lost == []


@EACH
def test_a_chapter_has_contents_and_its_neighbours(stem):
    cells = edition(stem).cells
    (contents,) = [cell.source for cell in cells if cell.id == "contents"]
    entries = re.findall(r"\[(\d+ [^\]]+)\]\(#", contents.replace("\xa0", " "))
    assert entries == list(CHAPTERS[stem].sections.values())
    assert len(CHAPTERS[stem].sections) >= 5
    order = list(SOURCES)
    place = order.index(stem)
    for neighbour in order[max(place - 1, 0) : place] + order[place + 1 : place + 2]:
        assert f"({neighbour}.ipynb)" in contents and f"({neighbour}.ipynb)" in cells[-1].source
    assert cells[-1].id == "previous-next" and "(#Contents)" in cells[-1].source


@EACH
def test_the_contents_are_short_and_come_before_the_first_section(stem):
    cells = edition(stem).cells
    place = next(index for index, cell in enumerate(cells) if cell.id == "contents")
    assert place <= 4 and cells[place + 1].source.startswith("## 1 ")
    assert len(re.sub(r"\]\([^)]*\)", "", cells[place].source)) < 700


@EACH
def test_no_place_is_named_without_a_link(stem):
    named = []
    for text in texts(stem):
        prose = APART.sub("", re.sub(r"^#{1,6} .*$", "", text, flags=re.MULTILINE))
        named += re.findall(
            r"arXiv\s\d{4}\.\d+|(?<!papers' )(?<!paper's )\bsections?\s+\d\S*", prose
        )
        for number in re.findall(r"\b[Cc]hapters?\s+(\d\d)\b", prose):
            there = [other for other in SOURCES if other.startswith(number) and other != stem]
            named += [f"chapter {number}"] if there else []
    assert named == [], "the paper's sections begin with a capital: Section 3.1"


@EACH
def test_a_capital_section_is_the_papers(stem):
    """It has a dot, or is said to be the paper's; this chapter's own sections are lowercase."""
    capital = r"(?<!papers' )(?<!paper's )\bSection\s+\d+\b(?!\.\d)"
    prose = [re.sub(r"^★.*$", "", APART.sub("", text), flags=re.MULTILINE) for text in texts(stem)]
    assert [found for text in prose for found in re.findall(capital, text)] == []


@EACH
def test_a_heading_is_a_good_anchor(stem):
    """JupyterLab and exported HTML make it from the words: plain ones, and no two alike."""
    assert [heading for heading in headings(stem) if re.search(r"[`$*_<>\[\]\\#%]", heading)] == []
    assert len(anchors(stem)) == len(headings(stem))


class Ids(HTMLParser):
    """The ids of a page, and the fragments that it links to."""

    def __init__(self):
        super().__init__()
        self.ids, self.fragments = set(), set()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        if tag == "a" and (attributes.get("href") or "").startswith("#"):
            self.fragments.add(unquote(attributes["href"][1:]))


@EACH
def test_the_links_hold_in_exported_html(stem):
    page, _ = HTMLExporter().from_notebook_node(edition(stem))
    found = Ids()
    found.feed(page)
    assert "Contents" in found.fragments and found.fragments - found.ids == set()

"""The rules of the English that a program can check."""

import ast
import io
import re
import tokenize

import pytest

from tests.test_pages import PAGES, ROOT, TOPS, prose

FILES = sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py"))

VAGUE = re.compile(r"(What|How|Whether|Which|Where|Of|That of|Those of|So|As many)\b")
"""First words that hide the subject of a docstring."""
BANNED = re.compile(
    r"\b(tells?|told|so many|anew|shall|heeds?|but for|seam|judged by)\b", re.IGNORECASE
)
LONGEST = 25
"""Words of a sentence on a page, at most."""
SENTENCE = re.compile(r"(?<=[.!?:;])\s+")


def name_of(path):
    return str(path.relative_to(ROOT))


def texts(path):
    """Comments and strings of a file: (line, text)."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    kinds = (tokenize.COMMENT, tokenize.STRING)
    return [(token.start[0], token.string) for token in tokens if token.type in kinds]


def docstrings(path):
    """Docstrings of modules, classes, functions and fields: (line, text)."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Expr(ast.Constant(str(text)), lineno=line):
                yield line, text.strip()


def sentences(page):
    """Sentences of a page outside code blocks and tables, without the links."""
    text = prose(page)
    lines = [re.sub(r"^(- |\d+\. |#+ )", "\n\n", line) for line in text.splitlines()]
    text = "\n".join(line for line in lines if not line.startswith("|"))
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)
    for paragraph in re.split(r"\n\s*\n", text):
        yield from SENTENCE.split(" ".join(paragraph.split()))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_docstring_names_its_subject_first(path):
    found = [(line, text[:60]) for line, text in docstrings(path) if VAGUE.match(text)]
    assert not found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_private_words_in_docstrings_comments_and_messages(path):
    if path.name in ("test_words.py", "names.py", "mutations.py"):
        return
    assert not [(line, text[:80]) for line, text in texts(path) if BANNED.search(text)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_in_plain_short_sentences(page):
    text = prose(page)
    assert not BANNED.findall(text)
    found = [s for s in sentences(page) if len(s.split()) > LONGEST]
    assert not found


def test_the_readme_is_one_screens_reading():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200

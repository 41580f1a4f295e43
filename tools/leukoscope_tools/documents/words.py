"""Words that texts and names of this repository avoid, and what to write instead: the one list and its check."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from leukoscope_tools.documents.prose import WORD_TABLE, list_files, read_names, read_passages, split_name

PER = (
    r"\b(?:one|rows?|lines?|files?|objects?|images?|pictures?|runs?|cells?|values?|pages?|numbers?|bytes|bits|pixels|ms"
    r"|views|requests|threads|times)\x20an?\x20(?:cell|subject|image|file|row|second|minute|class|split|fold|run|batch|field"
    r"|group|page|pixel|channel|epoch|process|request|slide|thread|view|line|record|case|person|bundle|stage|seed)\b"
)
BRITISH = (
    r"(?:(?:colour|behaviour|favour|neighbour|honour|labour|artefact)\w*|\b(?:grey\w*|(?:re|un)?(?:centre\w*|centring)"
    r"|analyse[sd]?|analysing|catalogues?|licences?|labelled|labelling|modell(?:ed|ing)|metres?|practise[sd]?|towards"
    r"|(?:un|de|re)?(?:normal|organ|recogn|optim|standard|random|initial|summar|minim|maxim|penal|util|visual|serial"
    r"|character|general|anonym|pseudonym|binar|regular|synchron|factor)is(?:e|es|ed|er|ers|ing|ation|ations))\b)"
)


class Word(NamedTuple):
    """One entry of the list.

    Attributes
    ----------
    shown : str
        How the table names it.
    pattern : str
        Regular expression, applied without regard to case.
    instead : str
        What to write.
    in_names : bool
        Whether names in programs are checked too.
    """

    shown: str
    pattern: str
    instead: str
    in_names: bool = False


class Finding(NamedTuple):
    """One place where a listed word stands."""

    path: Path
    line: int
    found: str
    instead: str


WORDS = (
    Word("judge, judgment", r"\bjudg\w*", "classify, predict, evaluate", in_names=True),
    Word("strangers", r"\bstrangers?\b", "unseen subjects; out-of-distribution images", in_names=True),
    Word("contestants", r"\bcontestants?\b", "backends", in_names=True),
    Word("passed over", r"\bpass(?:es|ed|ing) over\b", "skipped", in_names=True),
    Word("grown weights", r"\bgrown\b", "expanded weights", in_names=True),
    Word("what it is worth", r"\bworth\b", "how it was measured; useful", in_names=True),
    Word(
        "tell apart, tell from",
        r"\bt(?:ell|ells|old|elling) (?:\w+ ){0,3}apart\b|\btold from\b",
        "distinguish",
    ),
    Word("told", r"\btold\b", "given, set, distinguished", in_names=True),
    Word("said", r"\bsaid\b", "reported, printed, named", in_names=True),
    Word("everything random", r"\beverything random\b", "random seed"),
    Word(
        "everything odd, oddity", r"\beverything odd\b|\boddit(?:y|ies)\b", "warnings, issues", in_names=True
    ),
    Word("price", r"\bprices?\b", "cost", in_names=True),
    Word("gate", r"\bgates?\b", "input check, novelty check"),
    Word(
        "floor, house, room, door",
        r"\bfloors?\b|\bhouse\b|\brooms?\b|\bdoors?\b",
        "layer, package, entry point",
    ),
    Word("two worlds", r"\bworlds?\b", "training code, prediction code"),
    Word("diagnoses nobody", r"\bdiagnoses (?:nobody|no one)\b", "Research use only."),
    Word(
        "speaks for, speaks against",
        r"\bsp(?:eaks?|oke) (?:for|against|about)\b",
        "supports, is evidence for",
    ),
    Word("nobody, somebody, whoever", r"\b(?:nobody|somebody|whoever)\b", "the user; no user", in_names=True),
    Word("gives away", r"\bg(?:ives?|ave) away\b|\bgiveaway\b", "predicts, leaks"),
    Word("pretends", r"\bpretend\w*", "inflates, reports", in_names=True),
    Word("honest", r"\bhonest\w*", "calibrated, correct", in_names=True),
    Word("mend", r"\bmend(?:s|ed|ing)?\b", "fix", in_names=True),
    Word("anew", r"\banew\b", "again", in_names=True),
    Word(
        "goes on where, gone on with",
        r"\b(?:go|goes|going|gone) on (?:where|with|from)\b",
        "resumes, continues",
    ),
    Word("at hand", r"\bat hand\b", "available"),
    Word("travels along, carries along", r"\btravels?\b|\bcarr(?:y|ies|ied) along\b", "is included in"),
    Word("drifted (of a document)", r"\bdrift(?:s|ed)\b", "is out of date, stale"),
    Word("thereof", r"\bthereof\b", "of which"),
    Word("one row a cell", PER, "one row per cell", in_names=False),
    Word("British spelling", BRITISH, "American spelling", in_names=True),
)
"""Every discouraged word, in the order of the table in CONTRIBUTING.md."""

_EACH = [re.compile(word.pattern.replace(" ", r"\s+"), re.IGNORECASE) for word in WORDS]
_ANY = re.compile("|".join(pattern.pattern for pattern in _EACH), re.IGNORECASE)

EXEMPT = ("tools/leukoscope_tools/documents/words.py", "tests/contract/test_words.py")
"""Files that have to name the words."""


def find_words(path: Path) -> Iterator[Finding]:
    """Yield the listed words in the texts and names of one file."""
    for passage in read_passages(path):
        if not _ANY.search(passage.text):
            continue
        for word, pattern in zip(WORDS, _EACH, strict=True):
            for match in pattern.finditer(passage.text):
                line = passage.line + passage.text.count("\n", 0, match.start())
                yield Finding(path, line, " ".join(match[0].split()), word.instead)
    identifiers = set(re.findall(r"[^\W\d]\w*", path.read_text(encoding="utf-8")))
    if not _ANY.search(";".join(map(split_name, identifiers))):
        return  # saves parsing most files
    for name in read_names(path):
        words = split_name(name.text)
        for word, pattern in zip(WORDS, _EACH, strict=True):
            if word.in_names and pattern.search(words):
                yield Finding(path, name.line, name.text, word.instead)


def find_all_words(root: Path) -> list[Finding]:
    """Return the listed words in every checked file of a repository."""
    exempt = {root / name for name in EXEMPT}
    return [finding for path in list_files(root) if path not in exempt for finding in find_words(path)]


def render_table() -> str:
    """Return the list as a table in Markdown."""
    rows = [f"| {word.shown} | {word.instead} |" for word in WORDS]
    return "\n".join(["| instead of | write |", "|---|---|", *rows])


def update_table(text: str) -> str:
    """Return a document with the table between its ``<!-- words -->`` comments replaced by that of the list.

    Raises
    ------
    ValueError
        If the document has no such comments.
    """
    if not WORD_TABLE.search(text):
        raise ValueError("no table between <!-- words --> and <!-- /words -->; add both comments")
    return WORD_TABLE.sub(lambda _: f"<!-- words -->\n{render_table()}\n<!-- /words -->", text)

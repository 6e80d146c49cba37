"""README and guides: their code runs and prints what they show, links lead somewhere, every public name is explained."""

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import pytest

import probmodel as pb

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "notebooks" / "guides").glob("*.md"))]
CONTRIBUTING, CHANGELOG = ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"
NAMESPACES = ("gp", "bn", "boltzmann", "features", "objectives", "scores", "evidence", "diagnosis", "data", "studies")
MOST_WORDS = 900
RELATIVE, ABSOLUTE = 0.02, 0.02
"""Largest difference between a printed number and the one that is shown; the larger of the two counts."""

FENCE = re.compile(r"^```([\w{}]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUTPUT = "<!-- output -->"
NUMBER = re.compile(r"[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w/.])(?:benchmarks|notebooks|probmodel|tests)/[\w./*-]*\w")
PUBLIC = re.compile(r"\bpb((?:\.[A-Za-z_]\w*)+)")
MODULE = re.compile(r"python -m (benchmarks(?:\.\w+)+)")


def over(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=[page.relative_to(ROOT).as_posix() for page in pages])


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    is_output: bool
    """True if the page says that the code block above prints it."""


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        marked = text[: found.start()].rstrip().endswith(OUTPUT)
        yield Block(found[1], found[2], text.count("\n", 0, found.start(2)), marked)


def printed(page: Path) -> Iterator[tuple[Block, str]]:
    """Run the code of a page in one namespace; each block that shows an output, with what was printed above it."""
    namespace, output = {"__name__": "documentation"}, ""
    for block in blocks(page):
        if block.language == "python":
            # Line numbers of the page, so that a traceback shows the line and Pyro finds the source of a model.
            code = compile("\n" * block.line + block.text, str(page), "exec")
            with redirect_stdout(io.StringIO()) as stream, pb.isolated(seed=0):
                exec(code, namespace)
            output = stream.getvalue()
        if block.is_output:
            yield block, output


def differences(shown: str, got: str) -> list[str]:
    """Differences between two texts beyond spaces and the last digits of numbers."""
    found = []
    for line, other in zip(shown.strip().splitlines(), got.strip().splitlines(), strict=False):
        same_words = NUMBER.sub("#", line).split() == NUMBER.sub("#", other).split()
        pairs = zip(numbers(line), numbers(other), strict=False)
        if not same_words or any(abs(a - b) > max(ABSOLUTE, RELATIVE * abs(a)) for a, b in pairs):
            found.append(f"shown: {line}\nprinted: {other}")
    lines = len(shown.strip().splitlines()), len(got.strip().splitlines())
    return found if lines[0] == lines[1] else [*found, f"shown {lines[0]} lines, printed {lines[1]}"]


def numbers(line: str) -> list[float]:
    return [float(each.replace(",", "").replace("−", "-")) for each in NUMBER.findall(line)]


@over(PAGES)
def test_the_code_runs_without_a_warning_and_prints_what_is_shown(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROBMODEL_DATA", raising=False)
    matplotlib.use("Agg")
    try:
        for block, output in printed(page):
            assert not differences(block.text, output), f"{page.name}, line {block.line}"
    finally:
        plt.close("all")


def test_the_comparison_of_outputs_tells_numbers_and_words_apart():
    assert not differences("log Z = -31.312 nats", "log Z =  -31.315 nats")
    assert differences("log Z = -31.312 nats", "log Z = -33.0 nats")
    assert differences("log Z = -31.312 nats", "log Z = -31.312 bits")
    assert differences("one\ntwo", "one")


@over([*PAGES, CONTRIBUTING, CHANGELOG])
def test_links_and_pictures_exist(page):
    targets = [target for target in LINK.findall(prose(page)) if not target.startswith(("http:", "https:", "mailto:"))]
    anchors = {target: target.partition("#") for target in targets}
    missing = [target for target, (file, _, _) in anchors.items() if file and not (page.parent / file).exists()]
    assert not missing
    unknown = [
        target
        for target, (file, _, anchor) in anchors.items()
        if anchor and anchor not in headings(page.parent / file if file else page)
    ]
    assert not unknown


@over([*PAGES, CONTRIBUTING])
def test_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    missing = [name for name in PATH.findall(text) if not list(ROOT.glob(name))]
    modules = [name for name in MODULE.findall(text) if not list(ROOT.glob(f"{name.replace('.', '/')}*"))]
    assert not missing + modules


@over([*PAGES, CONTRIBUTING])
def test_public_names_that_are_named_exist(page):
    named = {match[1] for match in PUBLIC.finditer(page.read_text(encoding="utf-8"))}
    assert not [name for name in sorted(named) if not _is_public(name.split(".")[1:])]


def _is_public(parts: list[str]) -> bool:
    """Return whether each part is exported by what stands before it, or is an attribute of it where nothing is exported."""
    found = pb
    for part in parts:
        if part not in getattr(found, "__all__", dir(found)):
            return False
        found = getattr(found, part)
    return True


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").split()) <= MOST_WORDS


def test_the_index_lists_every_guide():
    index = ROOT / "notebooks" / "guides" / "index.md"
    listed = {line.strip() for block in blocks_of_directives(index) for line in block.splitlines()}
    assert {page.stem for page in PAGES[1:]} - {"index"} <= listed


def test_every_public_name_is_explained():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    public = {f"pb.{name}": getattr(pb, name) for name in pb.__all__}
    for namespace in NAMESPACES:
        inside = getattr(pb, namespace)
        public |= {f"pb.{namespace}.{name}": getattr(inside, name) for name in inside.__all__}
    words = set(re.findall(r"\w+", text))
    silent = [name for name, value in public.items() if name.split(".")[-1] not in words and not value.__doc__]
    assert not silent


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks_of_directives(page: Path) -> list[str]:
    return re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

"""The README and docs/ tell the truth about commands, links and options."""

from pathlib import Path

from options import as_markdown

ROOT = Path(__file__).parents[1]


def test_readme_stays_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_options_are_listed_as_they_are():
    assert (ROOT / "docs/options.md").read_text() == as_markdown(), "run: python options.py > docs/options.md"

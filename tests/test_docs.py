"""The README, docs/ and the shell scripts are right about programs, flags, settings, files and links.

Nothing is run: a command line is given to its program's argument parser.
"""

import dataclasses
import re
import shlex
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser as torchrun_parser

from augment.options import BACKENDS, from_sections
from augment.paint.backends import settings_of
from augment.paint.folder import OBJECTS, read_kinds
from augment.validate import RULES
from build_package import NAME
from evaluation.report import METRICS
from options import as_markdown
from support.errors import InputError, Parser

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
SHELL_SCRIPTS = sorted(ROOT.glob("scripts/*.sh"))
PROGRAMS = (
    "main",
    *sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in ROOT.glob("scripts/**/*.py")
        if path.name != "__init__.py"
    ),
)
PARSER_IN = {"main": "options", "scripts.insert": "augment.placement.options"}  # where not in the program

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(\./scripts/|\.venv/bin/|python |torchrun )")
PACKAGES = tuple(sorted(path.parent.name for path in ROOT.glob("*/__init__.py")))
OWN_PATH = re.compile(rf"(?:{'|'.join(PACKAGES)}|docs)/[\w./-]*|requirements[\w-]*\.txt|\w+\.py")
HAS_NO_FLAGS = ("options.py",)
CITATION = re.compile(r"\bdocs/([\w-]+\.md)(?:#([\w-]+))?")
TEXTS = sorted(
    path
    for pattern in ("*", *(f"{folder}/**/*" for folder in (*PACKAGES, "docs")))
    for path in ROOT.glob(pattern)
    if path.suffix in (".py", ".md", ".sh", ".yaml") and path != Path(__file__)
)


def commands_in_shell(text: str) -> list[str]:
    """The lines of shell text that start a program; continued ones joined, without assignments before it."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line for line in (re.sub(r"^\s*(\w+=\S+ )*", "", line) for line in lines) if COMMAND.match(line)]


def commands_in_page(text: str) -> list[str]:
    """Those of the bash blocks and of code within sentences."""
    blocks = [content for language, content in FENCE.findall(text) if language == "bash"]
    return commands_in_shell("\n".join([*blocks, *INLINE.findall(FENCE.sub("", text))]))


def all_commands() -> list[str]:
    commands = [command for page in PAGES for command in commands_in_page(page.read_text())]
    return sorted(
        {*commands, *(line for path in SHELL_SCRIPTS for line in commands_in_shell(path.read_text()))}
    )


@cache
def parser_of(program: str) -> Parser:
    """The parser of a program, named as `python -m` takes it."""
    return import_module(PARSER_IN.get(program, program)).parser()


def check_parses(parser, arguments: list[str]) -> None:
    try:
        parser.parse_args(arguments)
    except SystemExit as stopped:  # --help
        assert not stopped.code


def check_python(arguments: list[str]) -> None:
    """Check what follows `python`; a program may be named as the installed package has it."""
    if arguments[0] == "-c":
        return
    if arguments[0] != "-m":
        assert (ROOT / arguments[0]).is_file(), f"{arguments[0]} does not exist"
        if arguments[0] in HAS_NO_FLAGS:
            assert len(arguments) == 1
        else:
            check_parses(parser_of(Path(arguments[0]).stem), arguments[1:])
    elif (program := arguments[1].removeprefix(f"{NAME}.")) in PROGRAMS:
        check_parses(parser_of(program), arguments[2:])
    else:
        assert not arguments[1].startswith("scripts"), f"{arguments[1]} does not exist"
        # Whoever looks for pip gets setuptools to stand back in this process, which compiled networks need.
        assert arguments[1] == "pip" or find_spec(arguments[1]), f"{arguments[1]} does not exist"
        if arguments[1] == "pytest":
            check_pytest(arguments[2:])
        else:
            check_files(arguments[2:])


def check_pytest(arguments: list[str]) -> None:
    """The flags of pytest that we name, files that are there, tests that are found by -k."""
    parser = Parser("pytest", "")
    for flag in ("-k", "-n", "--dist"):
        parser.add_argument(flag)
    parser.add_argument("paths", nargs="*")
    flags = parser.parse_args(arguments)
    check_files(flags.paths)
    if flags.k and not any(flags.k in path.read_text() for path in ROOT.glob("tests/**/test_*.py")):
        raise AssertionError(f"no test is named {flags.k}")


def check_files(arguments: list[str]) -> None:
    """Files of our own that an argument names must exist, in any package if it names none."""
    for argument in arguments:
        if OWN_PATH.fullmatch(argument):
            places = ["."] if "/" in argument else [".", *(f"{package}/**" for package in PACKAGES)]
            found = any(next(ROOT.glob(f"{place}/{argument}"), None) for place in places)
            assert found, f"{argument} does not exist"


def check_command(line: str) -> None:
    """Raises InputError or AssertionError for a program that isn't there or flags it doesn't take."""
    words = shlex.split(line, comments=True)
    if ">" in words:
        words = words[: words.index(">")]
    program, arguments = words[0], [word.replace("$class", "person") for word in words[1:] if word != "$@"]
    name = Path(program).name
    if program.startswith("./scripts/"):
        assert (ROOT / program).is_file(), f"{program} does not exist"
        if name == "test.sh":
            check_pytest(arguments[arguments[:1] == ["--fast"] :])
        else:  # quickstart.sh hands its flags to main.py
            check_parses(parser_of("main"), arguments)
    elif name == "python":
        check_python(arguments)
    elif name == "torchrun":
        flags = torchrun_parser().parse_args(arguments)
        script = flags.training_script
        check_python([*(("-m",) if flags.module else ()), script, *flags.training_script_args])
    else:  # a program of a library
        assert (Path(sys.executable).parent / name).is_file(), f"{name} does not exist"


@pytest.mark.parametrize("command", all_commands())
def test_a_command_line_names_a_program_and_flags_that_it_takes(command):
    check_command(command)


@pytest.mark.parametrize(
    "wrong",
    (
        ".venv/bin/python -m scripts.inserted --out x",
        ".venv/bin/python mains.py",
        ".venv/bin/python main.py --no_such_flag",
        ".venv/bin/python main.py --epoch many",
        ".venv/bin/python -m scripts.insert --out x",  # no checkpoint
        ".venv/bin/torchrun --nproc_per_node=2 main.py --no_such_flag",
        "./scripts/start.sh",
        "./scripts/test.sh tests/no_room",
        ".venv/bin/python -m pip install -r requirements-none.txt",
        ".venv/bin/python options.py --epoch 3 > docs/options.md",
    ),
)
def test_a_wrong_command_line_is_noticed(wrong):
    with pytest.raises((InputError, AssertionError)):
        check_command(wrong)


def test_command_lines_are_found_where_they_stand():
    block = "```bash\nA=1 .venv/bin/python main.py \\\n    --epoch 3  # x\n```\n"
    page = f"Give `python main.py --help`.\n{block}```\npython in another block\n```\n"
    assert commands_in_page(page) == [".venv/bin/python main.py --epoch 3  # x", "python main.py --help"]
    assert len(all_commands()) > 20


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_has_a_parser_and_says_what_it_is(program):
    parser = parser_of(program)
    assert parser.description and program.removesuffix(".py") in parser.prog
    parser.format_help()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_and_files_named_in_sentences_exist(page):
    known = {
        flag for program in PROGRAMS for flag in re.findall("--[a-z_]+", parser_of(program).format_help())
    } | {"--fast"}  # of test.sh
    for code in INLINE.findall(FENCE.sub("", page.read_text())):
        if COMMAND.match(code):
            continue  # has a test of its own
        for flag in re.findall(r"(?:^|[ (|])(--[a-z_]*[a-z])\b", code):
            assert flag in known, f"{page.name}: no program takes {flag}"
        check_files([code])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_images_named_in_sentences_are_ours_or_a_program_s(page):
    sources = "".join(path.read_text() for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py"))
    for code in INLINE.findall(FENCE.sub("", page.read_text())):
        if re.fullmatch(r"[a-z_]+\.(png|jpg)", code):
            assert (ROOT / "docs/pictures" / code).is_file() or code in sources, f"{page.name}: {code}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_settings_of_a_back_end_are_listed_as_they_are(backend):
    """In the table of docs/synthesis.md: all of them, or those that differ from the row above."""
    (row,) = re.findall(rf"^\| `{backend}`.*\| (.*) \|$", (ROOT / "docs/synthesis.md").read_text(), re.M)
    defaults = dataclasses.asdict(settings_of(backend, {}))
    listed = dict(re.findall(r"`(\w+)`(?: ([\w.]+))?", row))
    assert listed.keys() <= defaults.keys() if "as above" in row else listed.keys() == defaults.keys()
    shown = {
        name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in defaults.items()
    }
    assert {name: value for name, value in listed.items() if value and value != shown[name]} == {}


def test_a_yaml_in_the_documents_is_one_that_is_taken(tmp_path):
    texts = [text for page in PAGES for kind, text in FENCE.findall(page.read_text()) if kind == "yaml"]
    for text in texts:
        content = yaml.safe_load(text)
        if any("places" in about for about in content.values()):
            (tmp_path / OBJECTS).write_text(text)
            assert [kind.name for kind in read_kinds(tmp_path, [*content])] == [*content]
            continue
        values = from_sections(content, text)
        settings_of(values["backend"], values["backend_settings"])
    assert texts


@pytest.mark.parametrize("path", ("data/nothing/", "data/nothing.py", "nothing.py", "requirements-no.txt"))
def test_a_missing_file_is_noticed(path):
    with pytest.raises(AssertionError, match="does not exist"):
        check_files([path])


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    lines = FENCE.sub("", page.read_text()).splitlines()
    titles = [line.lstrip("#").strip().lower() for line in lines if re.match("#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_images_lead_somewhere(page):
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match("https?:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = page.parent / path if path else page
        assert goal.is_file(), f"{page.name}: {target} does not exist"
        assert not anchor or anchor in headings(goal), f"{page.name}: {target} has no such heading"


def dead_citations(text: str) -> list[str]:
    """What a text cites that isn't there: pages and their headings."""
    dead = []
    for match in CITATION.finditer(text):
        page, anchor = ROOT / "docs" / match[1], match[2]
        if not page.is_file() or (anchor and anchor not in headings(page)):
            dead.append(match[0])
    return dead


def test_what_comments_cite_is_there():
    assert {
        str(path.relative_to(ROOT)): dead for path in TEXTS if (dead := dead_citations(path.read_text()))
    } == {}


@pytest.mark.parametrize("dead", ("docs/model.md#no-such-heading", "docs/no-such-page.md"))
def test_a_dead_citation_is_noticed(dead):
    assert dead_citations(f"The losses (docs/model.md#losses; {dead}).") == [dead]


@pytest.mark.parametrize(
    ("page", "heading", "names"),
    (("evaluation.md", "## Definitions", METRICS), ("synthesis.md", "## What validate checks", RULES)),
)
def test_every_metric_and_rule_is_defined(page, heading, names):
    section = (ROOT / "docs" / page).read_text().partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    assert [name for name in names if f"`{name}`" not in section] == []


def test_every_page_can_be_reached_from_the_readme():
    linked = set(LINK.findall(PAGES[0].read_text()))
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= {link.partition("#")[0] for link in linked}


def test_every_package_is_in_the_table_of_files():
    table = PAGES[0].read_text()
    inner = [f"augment/{path.parent.name}" for path in ROOT.glob("augment/*/__init__.py")]
    for package in (*PACKAGES, *inner):
        assert f"| `{package}/` |" in table, f"README: the table of files lacks {package}"


def test_the_readme_stays_short():
    assert len(PAGES[0].read_text().splitlines()) <= 150


def test_the_options_are_listed_as_they_are():
    listed = (ROOT / "docs/options.md").read_text()
    assert listed == as_markdown(), "run: .venv/bin/python options.py > docs/options.md"

"""`pip install` gives one package, whatever the project beside it calls its own modules."""

import ast
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import build_package
from build_package import NAME, ROOT, build_sdist, build_wheel, moved

# The packages and single files of the project, as the import contracts know them.
CONTRACTS = (ROOT / "pyproject.toml").read_text().partition("root_packages = [")[2].partition("]")[0]
OWN = {"tests", *re.findall(r"\w+", CONTRACTS)}
TAKEN = ("data/__init__.py", "insertion/__init__.py", "model.py", "options.py", "training.py")

TRAIN = """
import data, insertion, model, options, training
import torch
from torch.utils.data import DataLoader, Dataset
from whereandwhat.augment.placement.filters import Filters
from whereandwhat.insertion import InsertInstances
from whereandwhat.streets.scenes import make_scene

insert = InsertInstances("builtin:person", (2, 2), 1.0, "overlay", filters=Filters(rules=()))
scene = make_scene(0, "train", 0, 512, 256, with_people=False)
image = torch.from_numpy(scene.rgb).permute(2, 0, 1)
maps = [torch.from_numpy(scene.instance_ids.astype("int32")), torch.from_numpy(scene.label_ids)]


class Samples(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        new, (ids, labels) = insert(image, maps)
        return (new != image).any(), (labels == 24).any()


if __name__ == "__main__":
    torch.manual_seed(0)
    for painted, persons in DataLoader(Samples(), batch_size=2, num_workers=2):
        print(painted.tolist(), persons.tolist())
    assert all(module.MINE for module in (data, insertion, model, options, training))
"""

IMPORT_ALL = """
import sys
from importlib import import_module
from pathlib import Path

mine, *modules = sys.argv[1:]
for name in modules:
    try:
        import_module(name)
    except ModuleNotFoundError as error:  # a library that only an extra asks for
        assert error.name.partition(".")[0] in ("gradio", "diffusers", "transformers", "torchmetrics"), error
assert not set(mine.split()) & set(sys.modules)

# Modules that are named in strings.
from whereandwhat.benefit.arms import run_program
from whereandwhat.convert.formats import FORMATS, module_of
from whereandwhat.convert.mapping import mapping_of
from whereandwhat.scripts.bench_insertion import measured

for name in FORMATS:
    module_of(name)
    assert mapping_of(name, None)
for name in ("main", "scripts.insert", "scripts.synth.run"):
    try:
        run_program(name, {"help": None}, Path(f"{name}.txt"))
    except SystemExit as end:
        assert not end.code
print(measured("insert", "--help").output)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder that pip installed the package into, without a network."""
    folder = tmp_path_factory.mktemp("installed")
    flags = ("--no-deps", "--no-index", "--disable-pip-version-check", "--no-cache-dir", "--quiet")
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, "--target", folder, ROOT], check=True)
    return folder


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    """A project whose modules have names of ours."""
    folder = tmp_path_factory.mktemp("mine")
    for name in TAKEN:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("MINE = True\n")
    (folder / "train.py").write_text(TRAIN)
    (folder / "import_all.py").write_text(IMPORT_ALL)
    return folder


def run(installed: Path, mine: Path, *line) -> str:
    """What a program prints that is started in that project."""
    done = subprocess.run(
        [sys.executable, *line],
        cwd=mine,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def sources(installed: Path) -> list[Path]:
    return sorted((installed / NAME).rglob("*.py"))


@pytest.mark.slow
def test_everything_lies_below_one_name(installed):
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {NAME}
    inside = {path.name.removesuffix(".py") for path in (installed / NAME).iterdir()}
    assert inside - {"__pycache__"} == OWN | {"__init__", "weights"}
    for path in sources(installed):
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {name.partition(".")[0] for name in names} & OWN, f"{path}:{node.lineno}"


@pytest.mark.slow
def test_the_transform_works_in_a_loader_of_a_project_that_uses_our_names(installed, mine):
    assert run(installed, mine, "train.py") == "[True, True] [True, True]\n" * 2


@pytest.mark.slow
def test_all_modules_and_programs_are_found_there(installed, mine):
    modules = [
        ".".join(path.relative_to(installed).with_suffix("").parts).removesuffix(".__init__")
        for path in sources(installed)
    ]
    names = " ".join(name.partition("/")[0].removesuffix(".py") for name in TAKEN)
    printed = run(installed, mine, "import_all.py", names, *modules)
    assert "--per_image" in printed


@pytest.mark.slow
def test_what_is_needed_stands_in_the_metadata(installed):
    (file,) = installed.glob("*.dist-info/METADATA")
    lines = file.read_text().splitlines()
    assert {"Name: whereandwhat", "Requires-Dist: torch", "Requires-Dist: opencv-python-headless>=4.8"} <= {
        *lines
    }
    assert {'Requires-Dist: gradio>=5; extra == "demo"', "Provides-Extra: score"} <= {*lines}
    assert not [line for line in lines if "pytest" in line]


@pytest.mark.slow
def test_the_source_archive_gives_the_same_package(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / build_sdist(tmp_path)) as archive:
        archive.extractall(tmp_path / "out", filter="data")
    (unpacked,) = (tmp_path / "out").iterdir()
    assert (unpacked / "PKG-INFO").is_file() and (unpacked / "pyproject.toml").is_file()
    wheel = tmp_path / build_wheel(tmp_path)
    expected = wheel.read_bytes()
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{NAME}/weights/person.safetensors", f"{NAME}/augment/paint/prompts.yaml"} <= names
    monkeypatch.setattr(build_package, "ROOT", unpacked)
    build_wheel(tmp_path)
    assert wheel.read_bytes() == expected


@pytest.mark.parametrize(
    "before, after",
    [
        ("from data.x import y", "from whereandwhat.data.x import y"),
        ("from data import x as y  # from data", "from whereandwhat.data import x as y  # from data"),
        ("import data", "import whereandwhat.data as data"),
        ("import os, data as d, model", "import os, whereandwhat.data as d, whereandwhat.model as model"),
        ("import data.x as x", "import whereandwhat.data.x as x"),
        (
            "def f():\n    from data import (\n        x,\n    )\n",
            "def f():\n    from whereandwhat.data import (\n        x,\n    )\n",
        ),
        ("from .data import x", "from .data import x"),
        ("import database, torch.utils.data", "import database, torch.utils.data"),
        ('"""Schön:\nfrom data import x\n"""\n', '"""Schön:\nfrom data import x\n"""\n'),
    ],
)
def test_imports_are_moved_and_nothing_else(before, after):
    assert moved(before.encode(), {"data", "model"}) == after.encode()


def test_an_import_that_would_bind_another_name_is_refused():
    with pytest.raises(SyntaxError, match=r"import data\.x"):
        moved(b"import data.x", {"data"})

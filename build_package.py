"""Makes the package `whereandwhat`, which is all of this project below one name, for `pip install` (PEP 517).

In somebody else's project names such as `data` and `model` are taken. So each file goes below whereandwhat/
as it is, except that what a module imports from another one of ours it imports from there.
"""

import ast
import base64
import hashlib
import io
import re
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent
NAME, VERSION = "whereandwhat", "0.1"
SUMMARY = "Where can an object stand in a street scene, and what shape does it have there?"


def program_files() -> list[Path]:
    """What goes into the package, relative to the root: every package, and the files beside them."""
    packages = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"]
    files = [
        path for package in packages for ending in ("py", "yaml") for path in package.rglob(f"*.{ending}")
    ]
    files += [path for path in ROOT.glob("*.py") if path.name != Path(__file__).name]
    files += ROOT.glob("weights/*.safetensors")
    files += [ROOT / "tests/__init__.py", ROOT / "tests/plain.py"]  # all of them that a program needs
    return sorted(path.relative_to(ROOT) for path in files if not path.name.startswith("."))


def moved(source: bytes, own: set[str]) -> bytes:
    """The source of a module with its imports of `own` top-level modules made from below NAME.

    Raises SyntaxError for `import a.b` of ours, which would bind another name there.
    """
    insertions = []  # line, column in bytes, text
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] in own:
            insertions.append((node.lineno, node.col_offset + len("from "), f"{NAME}."))
        for alias in node.names if isinstance(node, ast.Import) else ():
            if alias.name.split(".")[0] in own:
                if not alias.asname and "." in alias.name:
                    raise SyntaxError(f"import {alias.name}: write from ... import ... instead")
                insertions.append((alias.lineno, alias.col_offset, f"{NAME}."))
                if not alias.asname:
                    insertions.append((alias.lineno, alias.end_col_offset, f" as {alias.name}"))
    lines = source.splitlines(keepends=True)
    for line, column, text in sorted(insertions, reverse=True):
        lines[line - 1] = lines[line - 1][:column] + text.encode() + lines[line - 1][column:]
    return b"".join(lines)


def metadata() -> bytes:
    """Name, version and what has to be installed; of requirements-EXTRA.txt where [EXTRA] is asked for."""
    lines = ["Metadata-Version: 2.1", f"Name: {NAME}", f"Version: {VERSION}", f"Summary: {SUMMARY}"]
    lines.append("Requires-Python: >=3.10")
    for file in sorted({*ROOT.glob("requirements*.txt")} - {ROOT / "requirements-test.txt"}):
        extra = file.stem.partition("-")[2]
        condition = f'; extra == "{extra}"' if extra else ""
        lines += [f"Provides-Extra: {extra}"] if extra else []
        for wanted in re.findall(r"^[^#\s].*", file.read_text(encoding="utf-8"), re.MULTILINE):
            # Whoever installs it beside a PyTorch of another version keeps that one.
            lines.append(f"Requires-Dist: {re.sub('==.*', '', wanted)}{condition}")
    return "\n".join([*lines, ""]).encode()


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """Write the package as a wheel, the same bytes each time; its file name."""
    files = program_files()
    own = {path.parts[0].removesuffix(".py") for path in files if path.suffix == ".py"}
    contents = {f"{NAME}/__init__.py": f'"""{SUMMARY}"""\n'.encode()}
    for path in files:
        content = (ROOT / path).read_bytes()
        contents[f"{NAME}/{path.as_posix()}"] = moved(content, own) if path.suffix == ".py" else content
    about = f"{NAME}-{VERSION}.dist-info"
    contents[f"{about}/METADATA"] = metadata()
    contents[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = ""
    for name, content in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    contents[f"{about}/RECORD"] = f"{record}{about}/RECORD,,\n".encode()
    wheel = f"{NAME}-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory) / wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name)  # of 1980, whenever it is made
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return wheel


def build_sdist(sdist_directory, config_settings=None) -> str:
    """Write what `build_wheel` needs, as it lies here; its file name."""
    top = f"{NAME}-{VERSION}"
    files = [ROOT / path for path in program_files()]
    files += [Path(__file__), ROOT / "pyproject.toml", ROOT / "README.md", *ROOT.glob("requirements*.txt")]
    contents = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}
    with tarfile.open(Path(sdist_directory) / f"{top}.tar.gz", "w:gz") as archive:
        for name, content in {"PKG-INFO": metadata(), **contents}.items():
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return f"{top}.tar.gz"

"""autotsnet imports neither baselines nor reproduce; baselines never imports reproduce; imports are quiet."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = [("autotsnet", {"baselines", "reproduce"}), ("baselines", {"reproduce"})]


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(("package", "forbidden"), FORBIDDEN)
def test_packages_import_downwards_only(package, forbidden):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    offenders = {str(f.relative_to(ROOT)): sorted(imported(f) & forbidden) for f in files if imported(f) & forbidden}
    assert not offenders


def test_imports_are_quiet():
    code = "import autotsnet.models, baselines, reproduce.engine.local, reproduce.tables"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""

"""The wheel holds the package and its license only, and works from an installation that is not editable."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command, cwd, **environment):
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, env=variables, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    quiet = ["--quiet", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "wheel", *quiet, "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    (found,) = folder.glob("probmodel-*.whl")
    return found


def test_the_wheel_holds_the_package_and_its_licence_only(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    outside = [name for name in names if not name.startswith("probmodel/")]
    assert all(".dist-info/" in name for name in outside)
    assert any(name.endswith("licenses/LICENSE") for name in outside)
    assert "probmodel/py.typed" in names
    inside = {path.relative_to(ROOT).as_posix() for path in (ROOT / "probmodel").rglob("*.py")}
    assert inside | {"probmodel/py.typed"} == set(names) - set(outside)


def test_an_installed_wheel_imports_and_runs_the_demo(wheel, tmp_path):
    # The dependencies are those of this environment; the package itself is the wheel's.
    venv.create(tmp_path / "fresh", with_pip=False)
    python = tmp_path / "fresh" / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    zipfile.ZipFile(wheel).extractall(site)
    here = run(sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    (Path(site) / "dependencies.pth").write_text(here + "\n")
    asked = "import probmodel; print(probmodel.__file__, probmodel.__version__)"
    file, version = run(python, "-c", asked, cwd=tmp_path).split()
    assert Path(file).is_relative_to(site)
    assert version in wheel.name
    demo = ("-m", "probmodel.cli", "demo", "--quick", "--out", tmp_path / "demo")
    assert "log evidence" in run(python, *demo, cwd=tmp_path, OMP_NUM_THREADS="1")
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000

"""One source of pins: pyproject.toml, requirements.in, the lock and environment.yml agree."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

spec = importlib.util.spec_from_file_location("doctor", ROOT / "tools" / "doctor.py")
assert spec
assert spec.loader
doctor = importlib.util.module_from_spec(spec)
spec.loader.exec_module(doctor)


def name(requirement: str) -> str:
    return re.split(r"[<>=!~ ;\[]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def lines(path: str) -> list[str]:
    text = (ROOT / path).read_text().splitlines()
    return [line.strip() for line in text if line.strip() and not line.strip().startswith("#")]


def test_everything_asked_for_is_locked_to_one_exact_version_per_python():
    locked = [line for line in lines("requirements.lock") if "==" in line]
    pins = {name(line) for line in locked}
    assert {name(r) for r in lines("requirements.in")} <= pins
    for line in locked:
        assert re.match(r"[\w.\-\[\]]+==[\w.+!]+( ;.*)?$", line), line
    for requirement in lines("requirements.in"):
        if "==" in requirement:
            assert any(line.startswith(requirement) for line in locked), requirement


def test_the_library_needs_only_what_is_asked_for():
    asked = {name(r) for r in lines("requirements.in")}
    assert {name(r) for r in PROJECT["project"]["dependencies"]} <= asked


def test_environment_takes_its_packages_from_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    python = next(d for d in environment["dependencies"] if str(d).startswith("python"))
    assert python == "python" + PROJECT["project"]["requires-python"]


def test_torch_is_one_version_everywhere_and_without_cuda_packages():
    torch = next(line for line in lines("requirements.lock") if line.startswith("torch=="))
    version = torch.split("==")[1]
    assert f"torch=={version}" in PROJECT["project"]["dependencies"]
    meta = PROJECT["tool"]["uv"]["dependency-metadata"]
    assert [m["version"] for m in meta if m["name"] == "torch"] == [version]
    assert not [
        line for line in lines("requirements.lock") if re.match(r"nvidia|triton|cuda", line)
    ]


def test_makefile_and_lock_agree_on_uv():
    pinned = re.search(r"^UV := (uv==\S+)$", (ROOT / "Makefile").read_text(), re.M)
    assert pinned
    assert pinned[1] in lines("requirements.lock")


def test_ci_calls_the_readmes_test_command():
    assert lines(".ci/run")[-1] == "make test"
    assert "make test" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("version", [(3, 8), (3, 10), (3, 14), (4, 0)])
def test_doctor_names_an_unsupported_python(version):
    problem = doctor.python_problem(version)
    assert f"Python {version[0]}.{version[1]} is not supported" in problem
    assert "PYTHON=python3.12" in problem


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_doctor_passes_supported_pythons(version):
    assert doctor.python_problem(version) is None


def test_doctor_names_small_disk_and_memory():
    assert "only 1.5 GB of disk are free" in doctor.disk_problem(1.5e9, installed=False)
    assert doctor.disk_problem(1.5e9, installed=True) is None
    assert doctor.disk_problem(9e9, installed=False) is None
    assert "has 2.0 GB of memory" in doctor.memory_problem(2 * 2**30)
    assert doctor.memory_problem(8 * 2**30) is None
    assert doctor.memory_problem(None) is None

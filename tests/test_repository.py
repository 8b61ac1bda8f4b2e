"""What the repository promises about itself: commands, requirements, configs, the table of papers."""

import ast
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lsec_jax import config as config_lib

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.name != "__init__.py")


def marked_block(text: str, marker: str) -> str:
    """Returns the content of the fenced block right below the line `<!-- marker -->`."""
    found = re.findall(rf"^<!-- {marker} -->\s*\n```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"README.md has {len(found)} fenced blocks right below '<!-- {marker} -->', not one"
    return found[0].strip()


def requirements(name: str) -> list[Requirement]:
    """Returns the requirements of one file; lines that include another file are left out."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r")]


@pytest.mark.parametrize("marker", ["start-command", "test-command"])
def test_readme_marks_its_command(marker):
    assert marked_block((ROOT / "README.md").read_text(), marker)


def test_ci_runs_the_test_command_of_the_readme():
    shown = subprocess.run(
        ["bash", ROOT / ".ci" / "run", "--show-test-command"], capture_output=True, text=True, check=True
    )
    command = marked_block((ROOT / "README.md").read_text(), "test-command")
    assert shown.stdout.strip() == command
    assert "python -m pytest" in command


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_have_bounds_that_the_installed_versions_meet(name):
    for requirement in requirements(name):
        operators = {bound.operator for bound in requirement.specifier}
        assert operators == {">=", "<"}, f"{requirement}: wants a lower and an upper bound"
        installed = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(installed, prereleases=True), f"{requirement}: installed is {installed}"


def test_the_dev_extra_is_requirements_dev():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {str(Requirement(line)) for line in project["optional-dependencies"]["dev"]}
    assert extra == {str(requirement) for requirement in requirements("requirements-dev.txt")}
    assert "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text().splitlines()


def extras() -> dict[str, set[str]]:
    """Returns the requirements of each optional extra of pyproject.toml but `dev`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {
        name: {str(Requirement(line)) for line in lines} for name, lines in project["optional-dependencies"].items()
    }
    return {name: lines for name, lines in found.items() if name != "dev"}


def test_development_installs_every_extra():
    assert set().union(*extras().values()) <= {str(requirement) for requirement in requirements("requirements-dev.txt")}


def test_what_the_package_imports_is_required():
    """By requirements.txt; inside functions an extra does, as its import happens only where it is used."""
    declared = {re.sub(r"[-_.]+", "-", requirement.name).lower() for requirement in requirements("requirements.txt")}
    optional = {re.sub(r"[-_.]+", "-", Requirement(line).name).lower() for lines in extras().values() for line in lines}
    distributions = importlib.metadata.packages_distributions()
    for path in sorted((ROOT / "lsec_jax").rglob("*.py")):
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        inside = {node for function in functions for node in ast.walk(function)}
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"lsec_jax"}:
                owners = {re.sub(r"[-_.]+", "-", owner).lower() for owner in distributions.get(top, [])}
                wanted = declared | (optional if node in inside else set())
                assert owners & wanted, f"{path.relative_to(ROOT)} imports {top}: add it to requirements.txt"


@pytest.mark.parametrize("variant", ["", "tiny"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_is_valid(path, variant):
    spec = importlib.util.spec_from_file_location(f"config_under_test_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(variant) if variant else module.get_config()
    assert isinstance(config, config_lib.RunConfig)
    assert dataclasses.is_dataclass(config.data) and dataclasses.is_dataclass(config.model)
    config_lib.validate(config)


def test_papers_name_only_functions_that_exist():
    named = re.findall(r"\b(lsec_jax(?:\.\w+)*):(\w+(?:\.\w+)*)", (ROOT / "docs" / "papers.md").read_text())
    assert named, "docs/papers.md names no function in the form lsec_jax.module:function"
    missing = []
    for module, attributes in named:
        try:
            found = importlib.import_module(module)
            for attribute in attributes.split("."):
                found = getattr(found, attribute)
        except (ImportError, AttributeError) as error:
            missing.append(f"{module}:{attributes}: {error}")
    assert not missing, "\n".join(missing)


def test_the_citation_has_the_version_of_the_package():
    version = importlib.import_module("lsec_jax").__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()

"""Runner of GitHub's workflows, as far as the guide uses them: the steps of a job with bash, in a checkout.

``uses:`` steps are replaced by :data:`ACTIONS`, which do what the action does; an unknown one fails the test.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

from tests.support.run import run

_EXPRESSION: Final = re.compile(r"\$\{\{\s*([a-z]+\.\w+)\s*\}\}")


def workflow_of(page: Path, name: str) -> dict[str, Any]:
    """Return the workflow called ``name`` in a page of the documentation."""
    found = (YAML(typ="safe").load(text) for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL))
    return next(workflow for workflow in found if workflow.get("name") == name)


@dataclass
class Runner:
    """Runner with an empty home folder. ``context`` has the values of expressions, such as ``secrets.NAME``."""

    folder: Path
    repository: Path
    path: str
    context: Mapping[str, str] = field(default_factory=dict)

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    def job(self, workflow: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[bool, str]:
        """Run the only job of a workflow; return its success and the output of its steps. ``environ`` overrides."""
        (steps,) = (job["steps"] for job in workflow["jobs"].values())
        for name in ("home", "temp"):
            (self.folder / name).mkdir()
        added, succeeded, output = self.folder / "path", True, ""
        added.touch()
        base = {
            "HOME": str(self.folder / "home"),
            "RUNNER_TEMP": str(self.folder / "temp"),
            "GITHUB_PATH": str(added),
            "GITHUB_ACTOR": "ann",
            "GITHUB_RUN_ID": "7",
            **workflow.get("env", {}),
            **environ,
        }
        for step in steps:
            if succeeded is (step.get("if", "success()") == "failure()"):
                continue
            if "uses" in step:
                ACTIONS[step["uses"]](self)
                continue
            path = ":".join([*reversed(added.read_text().split()), self.path])
            mine = {name: self._evaluated(value) for name, value in step.get("env", {}).items()}
            # As GitHub runs a step without a ``shell``.
            done = subprocess.run(
                ["bash", "-e", "-c", step["run"]],
                env={"PATH": path, **base, **mine},
                cwd=self.workspace,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            output += done.stdout
            succeeded = succeeded and done.returncode == 0
        return succeeded, output

    def _evaluated(self, value: str) -> str:
        """Return a value without its expressions; those of the commands themselves would stay, and fail in bash."""
        return _EXPRESSION.sub(lambda match: self.context[match[1]], value)


def _check_out(runner: Runner) -> None:
    run(["git", "clone", "--quiet", "--depth=1", f"file://{runner.repository}", str(runner.workspace)])


ACTIONS: Final[Mapping[str, Callable[[Runner], None]]] = {"actions/checkout@v4": _check_out}


def commit(repository: Path, files: Mapping[str, str], *, tag: str = "") -> None:
    """Commit files to a repository, which is created if missing."""
    if not repository.exists():
        run(["git", "init", "--quiet", "--initial-branch=main", str(repository)])
    for name, text in files.items():
        (repository / name).write_text(text)
    who = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    for side in ("AUTHOR", "COMMITTER"):
        who |= {f"GIT_{side}_NAME": "ann", f"GIT_{side}_EMAIL": "ann@example.com"}
    git = ["git", "-C", str(repository)]
    run([*git, "add", "--all"])
    run([*git, "commit", "--quiet", "--allow-empty", "--message=change"], environ={**os.environ, **who})
    if tag:
        run([*git, "tag", tag])

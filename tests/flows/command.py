"""Running the command line in this process, and how a refusal looks there."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from storage.errors import MissingProductError
from storage.files import Folder
from storage.verify import verify
from tests.flows.blobs import Workspace


@dataclass(frozen=True)
class Said:
    """What a command ended with: its exit code and what it wrote."""

    code: int
    output: str
    errors: str

    @property
    def json(self) -> dict[str, Any]:
        """The object in the last line of standard output."""
        return json.loads(self.output.splitlines()[-1])


class CommandLine:
    """Runs commands, and takes what they print."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str | Path) -> Said:
        self._capture.readouterr()
        code = main([str(argument) for argument in arguments])
        return Said(code, *self._capture.readouterr())

    def run(self, workspace: Workspace, *overrides: str, **options: Any) -> Said:
        """`softlabel run` with `--set` for each override; True is an option without a value."""
        arguments = ["run", workspace.recipe]
        for override in overrides:
            arguments += ["--set", override]
        for name, value in options.items():
            arguments += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return self(*arguments)

    def refuses(self, said: Said, code: int, *words: str) -> None:
        """It ended with that code and one line that says what is wrong."""
        assert said.code == code
        assert said.output == ""
        assert "Traceback" not in said.errors
        lines = said.errors.splitlines()
        assert [line for line in lines if line.startswith("softlabel: ")] == lines[-1:]
        for word in words:
            assert word in lines[-1]

    def refuses_run(
        self, workspace: Workspace, code: int, words: tuple[str, ...], *overrides: str, **more: Any
    ) -> None:
        """A run is refused; what was there stays, and what is new is whole."""
        before = workspace.files()
        self.refuses(self.run(workspace, *overrides, **more), code, *words)
        after = workspace.files()
        assert {name: after.get(name) for name in before} == before
        assert not [name for name in after if name.endswith(".tmp")]
        try:
            assert not list(verify(Folder.open(workspace.store)))
        except MissingProductError:
            assert not any((workspace.store / "teachers").glob("*/card.json"))

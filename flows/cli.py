"""The command line: what is asked for, which part does it, and with which exit code it ends.

0 done, 1 failed or a gate not met, 2 wrong usage or recipe. Heavy parts are imported by the command
that needs them, after the Prefect server has been asked to start.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

_INTERRUPTED = 130
_PACKAGES = ("tasks", "storage")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    foreign = _foreign_package()
    if foreign is not None:
        print(f"softlabel: {foreign}", file=sys.stderr)
        return 1
    from storage.errors import SoftlabelError

    options = _parser().parse_args(arguments)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    try:
        code: int = options.command(options)
    except SoftlabelError as error:
        for line in str(error).splitlines() or [type(error).__name__]:
            print(f"softlabel: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("softlabel: stopped; run the same command again to go on", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="softlabel",
        description="Keep a teacher's soft labels once; train and compare students from them.",
    )
    parser.add_argument("--version", action="version", version=f"softlabel {version('softlabel')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run what a recipe needs")
    _recipe_arguments(run)
    run.add_argument(
        "--stage",
        action="append",
        choices=["teacher", "label", "train", "evaluate"],
        help="only this stage, from what the store holds; may be repeated",
    )
    run.add_argument(
        "--student", action="append", metavar="NAME", help="only this student; may be repeated"
    )
    run.add_argument("--force", action="store_true", help="make it again even if it is there")
    run.set_defaults(command=_run)

    status = commands.add_parser("status", help="what is done, what would run, and why")
    _recipe_arguments(status)
    status.set_defaults(command=_status)

    inspect = commands.add_parser("inspect", help="what a product is: size, fidelity, digest")
    inspect.add_argument("where", metavar="URL|RECIPE")
    inspect.add_argument("--json", action="store_true", help="one JSON object")
    inspect.add_argument(
        "--samples", type=_count, default=0, metavar="N", help="show N decoded samples too"
    )
    inspect.add_argument(
        "--split", metavar="NAME", help="which split they are of; by default the one to train on"
    )
    inspect.set_defaults(command=_inspect)

    export = commands.add_parser("export", help="a label set or a model, for other programs")
    export.add_argument("where", metavar="URL|RECIPE")
    export.add_argument(
        "--to", required=True, metavar="DEST", help="a new folder, at a path or URL"
    )
    export.add_argument(
        "--format",
        required=True,
        choices=["portable", "axolotl", "model"],
        help="of a label set: probabilities in plain columns, or blocks for axolotl's distillation "
        "plugin; of a model: the files to serve it",
    )
    export.add_argument(
        "--split", action="append", metavar="NAME", help="only this split; may be repeated"
    )
    export.add_argument(
        "--temperature", type=_temperature, metavar="T", help="a stored one; by default the first"
    )
    export.add_argument("--json", action="store_true", help="end with one JSON object")
    export.set_defaults(command=_export)

    verify = commands.add_parser("verify", help="compare every file with its record")
    verify.add_argument("url", metavar="URL", help="a label set, a model, a report or a store")
    verify.add_argument(
        "--repair",
        nargs="?",
        const="",
        metavar="RECIPE",
        help="make damaged shards again, by default from the set's own specification",
    )
    verify.set_defaults(command=_verify)

    serve = commands.add_parser("serve", help="the Prefect UI, and each stage as a deployment")
    serve.add_argument("recipes", nargs="*", metavar="RECIPE")
    serve.set_defaults(command=_serve)

    schema = commands.add_parser("schema", help="the JSON Schema of recipes, for editors")
    schema.set_defaults(command=_schema)
    return parser


def _recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file at a path or URL")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="overrides",
        help="change a field of the recipe, such as labels.k=32; may be repeated",
    )
    parser.add_argument("--store", metavar="URL", help="another store than the recipe's")
    parser.add_argument(
        "--json", action="store_true", help="end with one JSON object on standard output"
    )


def _run(options: argparse.Namespace) -> int:
    from flows.run import run

    return run(
        options.recipe,
        options.overrides,
        store=options.store,
        stages=options.stage,
        students=options.student,
        force=options.force,
        as_json=options.json,
    )


def _status(options: argparse.Namespace) -> int:
    from flows.status import status

    return status(options.recipe, options.overrides, options.store, as_json=options.json)


def _inspect(options: argparse.Namespace) -> int:
    from flows.inspect import inspect

    return inspect(
        options.where, as_json=options.json, samples=options.samples, split=options.split
    )


def _export(options: argparse.Namespace) -> int:
    from flows.export import export_labels
    from flows.export_model import export_model

    if options.format == "model":
        return export_model(options.where, options.to, as_json=options.json)
    return export_labels(
        options.where,
        options.to,
        options.format,
        splits=options.split,
        temperature=options.temperature,
        as_json=options.json,
    )


def _verify(options: argparse.Namespace) -> int:
    from flows.verify import verify

    return verify(options.url, options.repair)


def _serve(options: argparse.Namespace) -> int:
    from flows.serve import serve

    return serve(options.recipes)


def _schema(_options: argparse.Namespace) -> int:
    from flows.recipe import recipe_schema

    print(json.dumps(recipe_schema(), indent=1))
    return 0


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def _temperature(text: str) -> float | str:
    try:
        return text if text == "std" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a number or std, got {text!r}") from error


def _foreign_package() -> str | None:
    """Top-level packages of such plain names meet other people's: what is said if one is found."""
    home = Path(__file__).resolve().parent.parent
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
        found = [Path(place).resolve() for place in places if place is not None]
        if home / name not in found:
            return (
                f"the package {name!r} that Python finds is {found[0] if found else 'none'}, "
                f"expected {home / name}: another one is in the way; run from another folder, or "
                "without it in PYTHONPATH"
            )
    return None


if __name__ == "__main__":
    sys.exit(main())

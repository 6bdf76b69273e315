"""Run all benchmarks, or those named, and print their figures as Markdown."""

from __future__ import annotations

import importlib
import sys

from tests.benchmarks.figures import Figure, machine, table

BENCHMARKS = (
    "demo",
    "finished",
    "sizes",
    "reading",
    "writing",
    "memory",
    "teacher_memory",
    "planning",
    "kept_set",
    "onnx_teacher",
    "augmenting",
    "padding",
    "label_stage",
    "streaming",
    "inside",
    "stored_features",
    "checkpoints",
    "steps",
    "sparse_dense",
    "losses",
    "processes",
    "three_students",
)


def main() -> None:
    figures: list[Figure] = []
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        figures += importlib.import_module(f"tests.benchmarks.{name}").run()
    print(f"On {machine()}:\n\n{table(figures)}")


if __name__ == "__main__":
    main()

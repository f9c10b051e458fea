"""What it costs a service to import Petiole before it can publish, beside a Celery app with redis and pydantic."""

from __future__ import annotations

import subprocess
import tempfile
import time

from tests.benchmarks.contestants import Contestant
from tests.benchmarks.measures import Bench, Figures
from tests.benchmarks.runs import PYTHONS

PROGRAMS = {
    "petiole": "from petiole import publish",
    "celery": """
import redis
from celery import Celery
from pydantic import BaseModel

class Placed(BaseModel):
    number: int

app = Celery("shop", broker="redis://127.0.0.1")

@app.task
def handle(document: dict) -> None: ...
""",
}
"""Both run in Petiole's environment, so the same versions are found in the same places."""

_COUNT_MODULES = "\nimport sys; print(len(sys.modules))"
_RUNS = 10


def imports(bench: Bench, contestant: Contestant) -> Figures:
    """Time fresh interpreters: the best of ten, less the best of ten that import nothing."""
    program = PROGRAMS[contestant.name]
    times = [(_run("pass")[0], _run(program)[0]) for _ in range(max(round(_RUNS * bench.scale), 2))]
    bare, importing = (min(column) for column in zip(*times, strict=True))
    return {"import_ms": (importing - bare) * 1_000, "import_modules": _run(program)[1]}


def _run(program: str) -> tuple[float, int]:
    command = [PYTHONS["petiole"], "-c", program + _COUNT_MODULES]
    began = time.monotonic()
    # Outside the checkout: a service has no celeryconfig.py of Petiole's.
    output = subprocess.run(command, cwd=tempfile.gettempdir(), check=True, capture_output=True, text=True).stdout
    return time.monotonic() - began, int(output)

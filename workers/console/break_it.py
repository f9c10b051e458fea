"""Page Break it: damage the system of the demo, and watch it recover. Only `petiole demo --console` has the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from petiole.events.errors import UsageError

if TYPE_CHECKING:
    from petiole.workers.console.visit import Visit


def show_experiments(visit: Visit) -> Response:
    """Show the buttons, the workers and the experiments; with `part`, what changes only."""
    experiments = visit.console.experiments
    if experiments is None:
        reason = "Only the demo is there to be broken: petiole demo --console"
        return visit.render("error.html", 404, title="Not found", reason=reason)
    shown = experiments.newest_first()
    template = "_break_it.html" if visit.query("part") else "break_it.html"
    return visit.render(template, experiments=shown, workers=experiments.system.list_workers())


def start_experiment(visit: Visit) -> Response:
    """Start an experiment."""
    experiments = visit.console.experiments
    if experiments is None:
        raise UsageError("only the demo is there to be broken: petiole demo --console")
    kind = visit.form.get("kind", "")
    with visit.acting(f"experiment.{kind}", "the demo"):
        experiments.start(kind)
    return visit.go("/break")

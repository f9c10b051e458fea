"""Importing Petiole changes no current app, and no task of a project goes to another broker."""

from __future__ import annotations

import pytest

OWN_APP = 'app = Celery("shop", broker="redis://shop.invalid:6379/3")\n'
IMPORT = "import petiole.tasks, petiole.workers.celery\n"


@pytest.fixture
def own(project):
    # With Django's settings named, as its projects have them: Celery's fix-up for it makes apps the default.
    project.write(settings="SECRET_KEY = 'x'")
    project.environment.update(
        {"DJANGO_SETTINGS_MODULE": "settings", "PETIOLE_BROKER_URL": "redis://other.invalid:6379/0"}
    )
    return project


@pytest.mark.parametrize("lines", [OWN_APP + IMPORT, IMPORT + OWN_APP], ids=["imported after", "imported before"])
def test_the_projects_app_stays_the_current_one_and_gets_the_shared_tasks(own, lines):
    told = own.run(
        "from celery import Celery, current_app, shared_task\n"
        "@shared_task\n"
        "def pack(order): ...\n"
        f"{lines}"
        "from threading import Thread\n"
        "print(current_app._get_current_object() is app, pack.app is app)\n"
        "thread = Thread(target=lambda: print(current_app._get_current_object() is app))\n"
        "thread.start(); thread.join()\n"
        "print(pack.app.connection_for_write().as_uri())"
    )

    assert told.split() == ["True", "True", "True", "redis://:**@shop.invalid:6379/3"]


def test_without_an_app_of_the_project_the_current_one_is_celerys_own(own):
    told = own.run(
        f"{IMPORT}from celery import current_app\nprint(current_app.main, hasattr(current_app, 'event_bus'))"
    )

    assert told.split() == ["default", "False"]

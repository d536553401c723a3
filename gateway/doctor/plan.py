"""What would be chosen for a model on this machine: looked at without a start, and said, as text or as JSON."""

import json
import textwrap
from collections.abc import Mapping

from gateway import assembly
from gateway.assembly import CannotStart
from gateway.config import Settings
from gateway.doctor.report import WIDTH
from gateway.providers.local.commands import CommandError
from gateway.providers.local.models import models
from gateway.providers.local.models.facts import ModelFacts
from gateway.providers.local.models.model_error import ModelError
from gateway.providers.local.planning.plan import Plan
from gateway.providers.local.planning.planner import Planner
from gateway.providers.local.provider import find_installed


async def look(settings: Settings, text: str, environ: Mapping[str, str]) -> tuple[ModelFacts, Plan]:
    """Of the model that `text` means. Raises CannotStart where there is no such model, or nothing here to serve it."""
    planner = Planner(environment=environ)
    planner.begin()
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    places, wants = assembly.places_of(settings), assembly.wants_of(settings)
    try:
        facts = await models.preview(text, places=places, wants=wants, token=token, environ=environ)
        return facts, await planner.look_once(assembly.engine_spec(settings, ()), facts, find_installed())
    except ModelError as error:
        raise CannotStart(error.sentence) from error
    except CommandError as error:
        raise CannotStart(str(error)) from error


def as_text(facts: ModelFacts, made: Plan) -> str:
    """A line for each choice, in 80 columns."""
    lines = [f"{facts.name} with {made.engine}", ""]
    for line in made.lines:
        lines += textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    if made.refusal:
        lines += ["", *textwrap.wrap(f"It cannot work: {made.refusal}", WIDTH, break_on_hyphens=False)]
    return "\n".join(lines)


def as_json(facts: ModelFacts, made: Plan) -> str:
    """Fields are added, never changed."""
    said = {
        "model": facts.name,
        "engine": made.engine,
        "works": not made.refusal,
        "refusal": made.refusal,
        "choices": [
            {"what": one.what, "value": one.value, "why": one.why, "setting": one.setting} for one in made.choices
        ],
        "warnings": list(made.warnings),
        "passed": dict(made.changes),
    }
    return json.dumps(said, indent=2, ensure_ascii=False)

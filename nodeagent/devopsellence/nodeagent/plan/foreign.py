"""Sentences about containers of somebody else that have a service's labels or name. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from devopsellence.nodeagent.docker.model import ForeignContainer
from devopsellence.nodeagent.plan.actions import ServicePlan


def name_foreign(
    plans: Iterable[ServicePlan], foreign: Sequence[ForeignContainer]
) -> tuple[tuple[ServicePlan, ...], str]:
    """Return the plans with a reason about the foreign containers of their services, where they are settled.

    Those of no planned service are named by the first such plan; if there is none, by the returned sentence. A plan
    that is not settled has, or is about to have, a reason of its own.
    """
    planned = tuple(plans)
    if not foreign:
        return planned, ""
    services = {plan.service for plan in planned}
    others = [container for container in foreign if container.service not in services]
    named = []
    for plan in planned:
        theirs = [container for container in foreign if container.service == plan.service]
        if plan.settled and not plan.reason and (theirs or others):
            named.append(replace(plan, reason=_sentence([*theirs, *others])))
            others = []
        else:
            named.append(plan)
    return tuple(named), _sentence(others)


def _sentence(foreign: Sequence[ForeignContainer]) -> str:
    """Return a sentence about some foreign containers, with the remedy; empty for none."""
    if not foreign:
        return ""
    first, more = foreign[0], len(foreign) - 1
    others = f", and {more} more" if more else ""
    if first.takes_name:
        what, remedy = "has a name that the agent gives", f"docker rename {first.name} {first.name}-other"
    else:
        what, remedy = "carries the agent's labels", f"docker rm -f {first.name}"
    return f"container {first.name} {what}, but was not created by it, and is left alone ({remedy}){others}"

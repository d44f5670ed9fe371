"""Sentences about containers of somebody else that have a service's labels or name. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from devopsellence.nodeagent.docker.model import ForeignContainer
from devopsellence.nodeagent.plan.actions import ServicePlan


def name_foreign(plans: Iterable[ServicePlan], foreign: Sequence[ForeignContainer]) -> tuple[ServicePlan, ...]:
    """Return the plans with a reason about the foreign containers of their services, where they have no other."""
    return tuple(
        replace(plan, reason=foreign_sentence(theirs))
        if not plan.reason and (theirs := [container for container in foreign if container.service == plan.service])
        else plan
        for plan in plans
    )


def foreign_note(plans: Iterable[ServicePlan], foreign: Sequence[ForeignContainer]) -> str:
    """Return a sentence about the foreign containers of no planned service; empty if there are none."""
    planned = {plan.service for plan in plans}
    return foreign_sentence([container for container in foreign if container.service not in planned])


def foreign_sentence(foreign: Sequence[ForeignContainer]) -> str:
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

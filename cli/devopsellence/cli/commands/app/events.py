"""``events``: recorded decisions of people and programs about an environment; etcd keeps them for a day."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import click

from devopsellence.cli import context
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import Output, pass_output

if TYPE_CHECKING:
    from devopsellence.api.v1.stored_pb2 import Event
    from devopsellence.store.etcd import Etcd

OPERATION: Final = "events"
_HEADER: Final = ("WHEN", "SEVERITY", "SOURCE", "CODE", "MESSAGE")


@click.command()
@click.option("--watch", "-w", is_flag=True, help="Keep watching for new events; press Ctrl-C to stop.")
@environment_option
@pass_output
@click.pass_context
def events(ctx: click.Context, output: Output, watch: bool) -> None:
    """Show the events of an environment.

    Events record who deployed, what the controller and the agents decided, and why. They are listed oldest first and
    kept for a day.

    \b
    Example:
      devopsellence events
      devopsellence events --watch -o json
    """
    if watch:
        context.run(ctx, lambda etcd: _watch(ctx, etcd, output))
    else:
        context.run(ctx, lambda etcd: _list(ctx, etcd, output))


async def _list(ctx: click.Context, etcd: Etcd, output: Output) -> None:
    from devopsellence.api.v1.stored_pb2 import Event
    from devopsellence.cli.store.reader import Reader
    from devopsellence.cli.util.text import columns

    ref = await context.environment(ctx, etcd)
    reader = Reader(etcd)
    events = sorted((await reader.get_prefix(etcd.keys.events_prefix(ref), Event)).items(), key=_when)
    for problem in reader.problems:
        output.warning(f"{problem.key} is {problem.reason}")
    table = [_cells(event) for _, event in events]
    if table:
        header, *lines = columns(_HEADER, table).split("\n")
        pairs = zip(lines, events, strict=True)
        text = "\n".join([header, *(part for line, (_, event) in pairs for part in (line, *_log_lines(event)))])
    else:
        text = f"No events of {ref} in the last day."
    output.result(OPERATION, text, environment=str(ref), events=[_document(event) for _, event in events])


async def _watch(ctx: click.Context, etcd: Etcd, output: Output) -> None:
    from devopsellence.api.v1.stored_pb2 import Event
    from devopsellence.store.informer import Informer

    ref = await context.environment(ctx, etcd)
    changed = asyncio.Event()
    informer = Informer(etcd, etcd.keys.events_prefix(ref), Event, lambda _key: changed.set())
    run = asyncio.create_task(informer.run())
    seen: set[str] = set()
    try:
        await informer.synced()
        while True:
            changed.clear()
            new = {key: record.message for key, record in informer.records.items() if key not in seen}
            for _, event in sorted(((key, event) for key, event in new.items() if event is not None), key=_when):
                output.line("\n".join(["  ".join(_cells(event)), *_log_lines(event)]))
                output.event(OPERATION, "progress", **_document(event))
            # Forget expired events, so that the set does not grow while watching.
            seen = set(informer.records)
            await changed.wait()
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


def _when(entry: tuple[str, Event]) -> tuple[int, int, str]:
    key, event = entry
    return event.at.seconds, event.at.nanos, key


def _cells(event: Event) -> list[str]:
    from devopsellence.api.v1.stored_pb2 import Event as EventType
    from devopsellence.cli.untrusted import safe
    from devopsellence.cli.util.text import local_time, word

    return [
        local_time(event.at) or "-",
        word(EventType.Severity, event.severity),
        safe(event.source) or "-",
        safe(event.code) or "-",
        safe(event.message),
    ]


def _log_lines(event: Event) -> list[str]:
    from devopsellence.cli.untrusted import safe

    return [f"    {safe(line)}" for line in event.log_lines]


def _document(event: Event) -> dict[str, Any]:
    from devopsellence.api.v1.stored_pb2 import Event as EventType
    from devopsellence.cli.util.text import iso, word

    return {
        "at": iso(event.at),
        "severity": word(EventType.Severity, event.severity),
        "source": event.source,
        "code": event.code,
        "message": event.message,
        "node": event.node,
        "service": event.service,
        "release": event.release,
        "log_lines": list(event.log_lines),
    }

"""Every exception that can reach a person, as a ``CliError`` with a stable code and the command that mends it."""

from __future__ import annotations

import re
from typing import Final

import click

from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.store import errors as store
from devopsellence.store.keys import InvalidName

# What gRPC puts before a reason: a status and the address that it tried.
_ADDRESS: Final = re.compile(r"^(?:[A-Z_]+: )?(?:(?:ipv[46]|dns):\S+: )?")
_DOCTOR: Final = NextAction("see what is wrong", "devopsellence doctor")


def explain(error: BaseException) -> CliError:
    """What to tell a person about ``error``; anything unforeseen has the code ``internal``."""
    if isinstance(error, CliError):
        return error
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return CliError("interrupted", "interrupted", exit_code=130)
    if isinstance(error, click.ClickException):
        return CliError("usage", error.format_message(), exit_code=error.exit_code)
    if isinstance(error, store.StoreError):
        return of_store(error)
    if isinstance(error, InvalidName):
        return CliError("invalid_name", str(error), exit_code=2)
    from devopsellence.config import ConfigError
    from devopsellence.store.settings import SettingsError

    if isinstance(error, SettingsError):
        return CliError("settings_invalid", str(error), exit_code=2)
    if isinstance(error, ConfigError):
        return of_config(error)
    if isinstance(error, OSError):
        return CliError("io_failed", str(error))
    again = NextAction("see where it comes from", "the same command with --debug")
    return CliError("internal", f"unexpected {type(error).__name__}: {error}", next_actions=[again])


def of_config(error: Exception) -> CliError:
    """All findings of an invalid configuration at once; exit code 2."""
    findings = [Finding("config_invalid", str(each), evidence="") for each in getattr(error, "findings", ())]
    count = f"{len(findings)} problem{'s' if len(findings) > 1 else ''}"
    message = f"the configuration is not valid: {count}" if findings else str(error)
    return CliError("config_invalid", message, exit_code=2, findings=findings)


def of_store(error: store.StoreError, *, where: str = "", dev: bool = False) -> CliError:
    """What an error of the store means to a person.

    ``where`` names the endpoints, ``dev`` says that they are those of the cluster on this machine.
    """
    at = f" at {where}" if where else ""
    detail = f" ({error})" if str(error) else ""
    match error:
        case store.Unavailable():
            mend = NextAction("start the cluster of this machine", "devopsellence dev up") if dev else _DOCTOR
            return CliError("etcd_unavailable", f"etcd{at} does not answer{_reason(str(error))}", next_actions=[mend])
        case store.Ambiguous():
            look = NextAction("see whether it did", "devopsellence status")
            message = f"etcd{at} did not answer a write in time, which may or may not have happened{detail}"
            return CliError("write_unconfirmed", message, next_actions=[look])
        case store.Unauthenticated():
            return CliError(
                "etcd_unauthenticated", f"etcd{at} does not accept our credential{detail}", next_actions=[_DOCTOR]
            )
        case store.PermissionDenied():
            return CliError(
                "etcd_permission_denied", f"etcd{at} does not allow this to us{detail}", next_actions=[_DOCTOR]
            )
        case store.NoSpace():
            return of_alarm("NOSPACE", where=where)
        case store.MalformedRecord():
            show = NextAction("see what it holds", f"etcdctl get {error.key}")
            return CliError("record_unreadable", str(error), next_actions=[show])
        case _:
            return CliError("etcd_failed", f"etcd{at}: {error or type(error).__name__}", next_actions=[_DOCTOR])


def _reason(said: str) -> str:
    """The innermost reason of the store's sentence, without what ours says already; in parentheses, or ""."""
    _, found, rest = said.partition(" does not answer at ")
    reason = _ADDRESS.sub("", rest.partition(" (")[2].removesuffix(")")) if found else said
    return f" ({reason})" if reason else ""


def node_unknown(name: str) -> CliError:
    """The error for a node that is not registered."""
    actions = [
        NextAction("see which are", "devopsellence node list"),
        NextAction("or register it", f"devopsellence node register {name}"),
    ]
    return CliError("node_unknown", f"no node {name} is registered", next_actions=actions)


def of_alarm(alarm: str, *, where: str = "") -> CliError:
    """What an alarm of etcd means to a person."""
    at = f" at {where}" if where else ""
    if alarm == "NOSPACE":
        message = f"etcd{at} has raised its NOSPACE alarm and refuses writes; what runs goes on"
        return CliError("etcd_no_space", message, next_actions=no_space_actions())
    message = f"etcd{at} has raised its {alarm} alarm: the data of a member differs from that of the others"
    return CliError("etcd_alarm", message, next_actions=[NextAction("see which member", "etcdctl alarm list")])


def no_space_actions() -> list[NextAction]:
    """What mends etcd's NOSPACE alarm, in order (etcd's maintenance guide)."""
    return [
        NextAction("1. find the current revision", "etcdctl endpoint status --write-out=json"),
        NextAction("2. drop what is older", "etcdctl compact <revision>"),
        NextAction("3. give the space back, member by member", "etcdctl defrag --cluster"),
        NextAction("4. lift the alarm", "etcdctl alarm disarm"),
    ]

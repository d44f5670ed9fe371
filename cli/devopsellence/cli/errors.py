"""Translation of exceptions to ``CliError``: a message, a stable code and the command that fixes the problem."""

from __future__ import annotations

import re
import signal
from typing import Final

import click

from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.cli.signals import number_of
from devopsellence.store import errors as store_errors
from devopsellence.store.keys import InvalidName
from devopsellence.store.size import RecordTooLarge

# Prefix of gRPC error messages: a status and the address.
_ADDRESS: Final = re.compile(r"^(?:[A-Z_]+: )?(?:(?:ipv[46]|dns|unix):\S+: )?")
# A gateway's refusal, followed by its reason, which names the caller and the key; etcd itself gives no reason.
_REFUSED: Final = "etcdserver: permission denied: "
# A gateway's answer to a caller that has used up a limit, or asks for something that gateways do not serve.
_LIMIT: Final = ": gateway: "
_DOCTOR: Final = NextAction("check the setup", "devopsellence doctor")


def explain(error: BaseException) -> CliError:
    """Return the ``CliError`` for ``error``; the code of an unexpected exception is ``internal``."""
    if isinstance(error, CliError):
        return error
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return interrupted(error)
    if isinstance(error, click.ClickException):
        return CliError("usage", error.format_message(), exit_code=error.exit_code)
    if isinstance(error, store_errors.StoreError):
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
    debug = NextAction("print the traceback", "the same command with --debug")
    return CliError("internal", f"unexpected {type(error).__name__}: {error}", next_actions=[debug])


def interrupted(error: BaseException, progress: str = "") -> CliError:
    """Return the error after Ctrl-C or a signal; exit code 128 plus the number of the signal.

    ``progress`` says how far the command came and what continues by itself.
    """
    number = number_of(error)
    text = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    return CliError("interrupted", f"{text}; {progress}" if progress else text, exit_code=128 + number)


def of_config(error: Exception) -> CliError:
    """Return the error for an invalid or missing configuration, with all findings; exit code 2."""
    if isinstance(error.__cause__, FileNotFoundError):
        action = NextAction("create the file", "devopsellence init")
        return CliError("config_missing", str(error), exit_code=2, next_actions=[action])
    findings = [Finding("config_invalid", str(finding), evidence="") for finding in getattr(error, "findings", ())]
    count = f"{len(findings)} problem{'s' if len(findings) > 1 else ''}"
    message = f"the configuration is not valid: {count}" if findings else str(error)
    return CliError("config_invalid", message, exit_code=2, findings=findings)


def of_store(error: store_errors.StoreError, *, where: str = "", dev: bool = False) -> CliError:
    """Return the ``CliError`` for an error of the store.

    ``where`` names the endpoints; ``dev`` is True for the local cluster.
    """
    at = f" at {where}" if where else ""
    detail = f" ({error})" if str(error) else ""
    match error:
        case store_errors.Unavailable() if _LIMIT in str(error):
            reason = str(error).partition(_LIMIT)[2]
            return CliError("etcd_unavailable", f"the gateway{at} refused a request: {reason}", next_actions=[_DOCTOR])
        case store_errors.Unavailable():
            fix = NextAction("start the local cluster", "devopsellence dev up") if dev else _DOCTOR
            return CliError("etcd_unavailable", f"etcd{at} does not answer{_reason(str(error))}", next_actions=[fix])
        case store_errors.Ambiguous():
            check = NextAction("check the current state", "devopsellence status")
            message = f"etcd{at} did not confirm a write in time; the write may or may not have been applied{detail}"
            return CliError("write_unconfirmed", message, next_actions=[check])
        case store_errors.Unauthenticated():
            return CliError(
                "etcd_unauthenticated", f"etcd{at} rejected the credentials{detail}", next_actions=[_DOCTOR]
            )
        case store_errors.PermissionDenied():
            _, separator, reason = str(error).partition(_REFUSED)
            if separator:
                return access_denied(reason)
            return CliError("etcd_permission_denied", f"etcd{at}: permission denied{detail}", next_actions=[_DOCTOR])
        case store_errors.NoSpace():
            return of_alarm("NOSPACE", where=where)
        case RecordTooLarge():
            return CliError("record_too_large", f"{error}; it was not written", exit_code=2)
        case store_errors.MalformedRecord():
            show = NextAction("show the record", f"etcdctl get {error.key}")
            return CliError("record_unreadable", str(error), next_actions=[show])
        case _:
            return CliError("etcd_failed", f"etcd{at}: {error or type(error).__name__}", next_actions=[_DOCTOR])


def access_denied(reason: str) -> CliError:
    """Return the error for something that a gateway allows only to others; ``reason`` names the operator."""
    action = NextAction("see what you may do, or as root who may do what", "devopsellence operator list")
    return CliError("etcd_permission_denied", f"access denied: {reason}", next_actions=[action])


def _reason(message: str) -> str:
    """Return the innermost reason of the store's message in parentheses; "" for none."""
    _, separator, rest = message.partition(" does not answer at ")
    reason = _ADDRESS.sub("", rest.partition(" (")[2].removesuffix(")")) if separator else message
    return f" ({reason})" if reason else ""


def node_unknown(name: str) -> CliError:
    """Return the error for a node that is not registered."""
    actions = [
        NextAction("list the nodes", "devopsellence node list"),
        NextAction("or register the node", f"devopsellence node register {name}"),
    ]
    return CliError("node_unknown", f"no node {name} is registered", next_actions=actions)


def of_alarm(alarm: str, *, where: str = "") -> CliError:
    """Return the error for an alarm of etcd."""
    at = f" at {where}" if where else ""
    if alarm == "NOSPACE":
        message = f"etcd{at} has raised the NOSPACE alarm and refuses writes; running containers are not affected"
        return CliError("etcd_no_space", message, next_actions=no_space_actions())
    message = f"etcd{at} has raised the {alarm} alarm: the data of a member differs from that of the other members"
    return CliError("etcd_alarm", message, next_actions=[NextAction("find the member", "etcdctl alarm list")])


def no_space_actions() -> list[NextAction]:
    """Return the steps that fix the NOSPACE alarm, in order (etcd's maintenance guide)."""
    return [
        NextAction("1. find the current revision", "etcdctl endpoint status --write-out=json"),
        NextAction("2. compact older revisions", "etcdctl compact <revision>"),
        NextAction("3. defragment all members", "etcdctl defrag --cluster"),
        NextAction("4. disarm the alarm", "etcdctl alarm disarm"),
    ]

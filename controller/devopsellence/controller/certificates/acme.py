"""ACME client (RFC 8555): the only importer of ``acme``, ``josepy`` and requests.

All calls block, for at most :data:`REQUEST_SECONDS` without a response; failures raise IssuanceError. An account for
each directory and email address is registered on first use and lost with the process: certificates do not depend on
accounts, and the account keys exist only in memory.
"""

from __future__ import annotations

import datetime
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from acme import challenges, client, errors, messages
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.errors import Error as JoseError
from josepy.jwa import ES256
from josepy.jwk import JWKEC
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_exponential

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.certificates.demand import AcmeAccount
from devopsellence.controller.certificates.failure import FailureKind, IssuanceError, IssuanceFailure

REQUEST_SECONDS: Final = 20
#: Time for the authority to validate the challenges, and again to issue the certificate.
AUTHORITY_SECONDS: Final = 120
# The client itself retries once; test authorities refuse good nonces at random.
_BAD_NONCES: Final = 10
_ENDS: Final = (messages.STATUS_VALID, messages.STATUS_INVALID)
_KINDS: Final = {
    "rateLimited": FailureKind.RATE_LIMITED,
    "rejectedIdentifier": FailureKind.REJECTED,
    "unsupportedIdentifier": FailureKind.REJECTED,
    "malformed": FailureKind.OTHER,
    "connection": FailureKind.CONNECTION,
    "tls": FailureKind.CONNECTION,
    "unauthorized": FailureKind.UNAUTHORIZED,
    "incorrectResponse": FailureKind.UNAUTHORIZED,
    "dns": FailureKind.DNS,
    "dnssec": FailureKind.DNS,
    "unknownHost": FailureKind.DNS,
    "caa": FailureKind.CAA,
    "externalAccountRequired": FailureKind.ACCOUNT,
    "invalidEmail": FailureKind.ACCOUNT,
    "invalidContact": FailureKind.ACCOUNT,
    "unsupportedContact": FailureKind.ACCOUNT,
    "userActionRequired": FailureKind.ACCOUNT,
}


class AcmeClient:
    """ACME servers of all environments, with an account each. Thread-safe."""

    def __init__(self, ca_cert: Path | None = None, *, request_seconds: int = REQUEST_SECONDS) -> None:
        """``ca_cert``: PEM file of further CAs to trust for the ACME servers themselves."""
        self._ca_cert = ca_cert
        self._request_seconds = request_seconds
        self._lock = threading.Lock()
        self._registered: dict[AcmeAccount, _Registered] = {}
        self._registering: dict[AcmeAccount, threading.Lock] = {}

    def order(self, account: AcmeAccount, csr_pem: str) -> AcmeOrder:
        """Begin an order for the hosts of a signing request.

        Raises:
            IssuanceError: the authority is unreachable, or refuses.
        """
        with _converted_errors(account) as notes:
            try:
                return self._order(account, csr_pem, notes)
            except messages.Error as error:
                if error.code != "accountDoesNotExist":
                    raise
                # The server has lost its accounts, as test servers do.
                with self._lock:
                    self._registered.pop(account, None)
                return self._order(account, csr_pem, notes)

    def _order(self, account: AcmeAccount, csr_pem: str, notes: _Notes) -> AcmeOrder:
        registered = self._register(account, notes)
        net = self._network(registered.key, notes)
        net.account = registered.registration
        connected = client.ClientV2(registered.directory, net)
        return AcmeOrder(account, connected, notes, connected.new_order(csr_pem.encode()))

    def _register(self, account: AcmeAccount, notes: _Notes) -> _Registered:
        with self._lock:
            registering = self._registering.setdefault(account, threading.Lock())
        with registering:
            with self._lock:
                known = self._registered.get(account)
            if known is not None:
                return known
            key = JWKEC(key=ec.generate_private_key(ec.SECP256R1()))
            net = self._network(key, notes)
            directory = client.ClientV2.get_directory(account.directory_url, net)
            registration = messages.NewRegistration.from_data(email=account.email or None, terms_of_service_agreed=True)
            registered = _Registered(key, directory, client.ClientV2(directory, net).new_account(registration))
            with self._lock:
                self._registered[account] = registered
            return registered

    def _network(self, key: JWKEC, notes: _Notes) -> _Network:
        net = _Network(key, alg=ES256, user_agent="devopsellence", timeout=self._request_seconds)
        net.session.hooks["response"].append(notes.read_header)
        if self._ca_cert is not None:
            net.session.mount("https://", _Trusting(self._ca_cert))
        return net


class AcmeOrder:
    """Order (RFC 8555, section 7.4) for one signing request. For one thread at a time."""

    def __init__(
        self, account: AcmeAccount, connected: client.ClientV2, notes: _Notes, order: messages.OrderResource
    ) -> None:
        self._account = account
        self._client = connected
        self._notes = notes
        self._order = order
        # Authorizations may be valid already from an earlier order.
        self._pending = [
            authorization
            for authorization in order.authorizations
            if authorization.body.status != messages.STATUS_VALID
        ]
        self._challenges = [_http01(authorization) for authorization in self._pending]
        key = connected.net.key
        self._responses = [challenge.response_and_validation(key) for challenge in self._challenges]

    @property
    def challenges(self) -> Sequence[pb.Challenge]:
        """Return the challenges that the nodes must serve before :meth:`prove`; may be empty."""
        return [
            pb.Challenge(token=challenge.chall.encode("token"), key_authorization=validation)
            for challenge, (_, validation) in zip(self._challenges, self._responses, strict=True)
        ]

    def prove(self) -> None:
        """Have the authority validate the challenges, and wait for success.

        Raises:
            IssuanceError: the validation failed or had no result in time.
        """
        with _converted_errors(self._account, self._notes):
            for challenge, (response, _) in zip(self._challenges, self._responses, strict=True):
                self._client.answer_challenge(challenge, response)
            for authorization in self._pending:
                self._await(authorization)

    def finalize(self) -> str:
        """Have the certificate issued and return it with its intermediates, as PEM.

        Raises:
            IssuanceError: the authority does not issue the certificate.
        """
        with _converted_errors(self._account, self._notes):
            body = _poll(lambda body: body.status not in _ENDS)(self._advance)
            if body.status == messages.STATUS_VALID and body.certificate:
                return str(self._read(body.certificate).text)
            if body.error is not None:
                raise body.error
            raise IssuanceError(
                IssuanceFailure(FailureKind.OTHER, f"{_name(self._account)} does not say why it issues no certificate")
            )

    def _advance(self) -> messages.Order:
        """Return the state of the order; finalize it if ready (RFC 8555, section 7.4)."""
        body: messages.Order = messages.Order.from_json(self._read(self._order.uri).json())
        if body.status == messages.STATUS_READY:
            self._client.begin_finalization(self._order)
        return body

    def _read(self, url: str) -> requests.Response:
        """Send a POST-as-GET request (RFC 8555, section 6.3)."""
        return self._client.net.post(url, None, new_nonce_url=self._client.directory["newNonce"])

    def _await(self, authorization: messages.AuthorizationResource) -> None:
        waiting = (messages.STATUS_PENDING, messages.STATUS_PROCESSING)
        body = _poll(lambda body: body.status in waiting)(lambda: self._client.poll(authorization)[0].body)
        if body.status == messages.STATUS_VALID:
            return
        problem = next((challenge.error for challenge in body.challenges if challenge.error is not None), None)
        if problem is None:
            raise IssuanceError(
                IssuanceFailure(FailureKind.OTHER, f"{_name(self._account)} does not say why validation failed")
            )
        raise problem


@dataclass(frozen=True)
class _Registered:
    key: JWKEC = field(repr=False)
    directory: messages.Directory
    registration: messages.RegistrationResource


@dataclass
class _Notes:
    """Retry-After header of the last response in seconds, which the library does not expose."""

    retry_after: float = 0.0

    def read_header(self, response: Any, *_: object, **__: object) -> None:
        self.retry_after = _seconds(response.headers.get("Retry-After", ""))


class _Network(client.ClientNetwork):
    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        for _ in range(_BAD_NONCES):
            try:
                return super().post(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
        return super().post(*args, **kwargs)


class _Trusting(HTTPAdapter):
    """Adapter that trusts the CAs in a file besides the public CAs."""

    def __init__(self, ca_cert: Path) -> None:
        self._context = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
        self._context.load_verify_locations(ca_cert)
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)


def _poll(again: Callable[[Any], bool]) -> Retrying:
    return Retrying(
        retry=retry_if_result(again),
        wait=wait_exponential(multiplier=0.1, max=5),
        stop=stop_after_delay(AUTHORITY_SECONDS),
    )


def _http01(authorization: messages.AuthorizationResource) -> messages.ChallengeBody:
    for challenge in authorization.body.challenges:
        if isinstance(challenge.chall, challenges.HTTP01):
            return challenge
    host = authorization.body.identifier.value
    raise IssuanceError(IssuanceFailure(FailureKind.REJECTED, f"the authority offers no HTTP challenge for {host}"))


@contextmanager
def _converted_errors(account: AcmeAccount, notes: _Notes | None = None) -> Iterator[_Notes]:
    """Convert exceptions of the libraries to IssuanceError, with the problem documents of the authority as text."""
    notes = notes or _Notes()
    name = _name(account)
    try:
        yield notes
    except messages.Error as error:
        kind = _KINDS.get(error.code or str(error.typ).rpartition(":")[2], FailureKind.OTHER)
        retry_after = notes.retry_after if kind is FailureKind.RATE_LIMITED else 0.0
        raise IssuanceError(IssuanceFailure(kind, f"{name} refused: {_detail(error)}", retry_after)) from error
    except RetryError as error:
        detail = f"{name} has not finished within {AUTHORITY_SECONDS} s"
        raise IssuanceError(IssuanceFailure(FailureKind.OTHER, detail)) from error
    except requests.exceptions.SSLError as error:
        detail = f"{name} has a certificate that is not trusted here"
        raise IssuanceError(IssuanceFailure(FailureKind.UNTRUSTED, detail)) from error
    except requests.exceptions.Timeout as error:
        detail = f"{name} does not answer in time"
        raise IssuanceError(IssuanceFailure(FailureKind.UNREACHABLE, detail)) from error
    except requests.exceptions.ConnectionError as error:
        raise IssuanceError(IssuanceFailure(FailureKind.UNREACHABLE, f"{name} cannot be reached")) from error
    except (requests.exceptions.RequestException, errors.Error, JoseError, ValueError, KeyError) as error:
        detail = f"{account.directory_url} does not answer as an ACME server does ({type(error).__name__})"
        raise IssuanceError(IssuanceFailure(FailureKind.ACCOUNT, detail, notes.retry_after)) from error


def _detail(problem: messages.Error) -> str:
    """Return the problem document in one line."""
    parts = [str(problem.detail or problem.title or problem.typ)]
    parts += [str(subproblem.detail) for subproblem in problem.subproblems or () if subproblem.detail]
    return " ".join(" ".join(parts).split()).rstrip(".")


def _name(account: AcmeAccount) -> str:
    return urlsplit(account.directory_url).netloc or account.directory_url


def _seconds(retry_after: str) -> float:
    """Return the seconds of a Retry-After header (RFC 9110, section 10.2.3), a number or a date; 0 if neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        at = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    now = datetime.datetime.now(at.tzinfo)
    return max(0.0, (at - now).total_seconds())

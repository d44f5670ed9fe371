"""The ACME client (RFC 8555): the only importer of ``acme``, ``josepy`` and requests, and of all that they need.

Everything blocks, for at most :data:`REQUEST_SECONDS` without a word; what goes wrong is an IssuanceError. One account
for each directory and address is made when it is first needed, and forgotten with the process: certificates do not
depend on it, and its key is nowhere but here.
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
from devopsellence.controller.certificates.demand import Account
from devopsellence.controller.certificates.failure import Failure, IssuanceError, Kind

REQUEST_SECONDS: Final = 20
#: For the authority to look at the challenges, and then to make the certificate.
AUTHORITY_SECONDS: Final = 120
# The client itself tries once more; authorities that refuse good nonces at random exist to test that.
_BAD_NONCES: Final = 10
_ENDS: Final = (messages.STATUS_VALID, messages.STATUS_INVALID)
_KINDS: Final = {
    "rateLimited": Kind.RATE_LIMITED,
    "rejectedIdentifier": Kind.REJECTED,
    "unsupportedIdentifier": Kind.REJECTED,
    "malformed": Kind.OTHER,
    "connection": Kind.CONNECTION,
    "tls": Kind.CONNECTION,
    "unauthorized": Kind.UNAUTHORIZED,
    "incorrectResponse": Kind.UNAUTHORIZED,
    "dns": Kind.DNS,
    "dnssec": Kind.DNS,
    "unknownHost": Kind.DNS,
    "caa": Kind.CAA,
    "externalAccountRequired": Kind.ACCOUNT,
    "invalidEmail": Kind.ACCOUNT,
    "invalidContact": Kind.ACCOUNT,
    "unsupportedContact": Kind.ACCOUNT,
    "userActionRequired": Kind.ACCOUNT,
}


class Authorities:
    """The ACME servers that environments name, and our accounts there. To be called from any thread."""

    def __init__(self, ca_cert: Path | None = None, *, request_seconds: int = REQUEST_SECONDS) -> None:
        """``ca_cert``: a PEM file of further authorities that the servers' own certificates may come from."""
        self._ca_cert = ca_cert
        self._request_seconds = request_seconds
        self._lock = threading.Lock()
        self._registered: dict[Account, _Registered] = {}
        self._registering: dict[Account, threading.Lock] = {}

    def order(self, account: Account, csr_pem: str) -> Order:
        """Begin an order for the hosts of a signing request.

        Raises:
            IssuanceError: the authority cannot be reached, or refuses.
        """
        with _told(account) as notes:
            try:
                return self._order(account, csr_pem, notes)
            except messages.Error as error:
                if error.code != "accountDoesNotExist":
                    raise
                # It has lost its memory, as servers for tests do.
                with self._lock:
                    self._registered.pop(account, None)
                return self._order(account, csr_pem, notes)

    def _order(self, account: Account, csr_pem: str, notes: _Notes) -> Order:
        registered = self._register(account, notes)
        net = self._network(registered.key, notes)
        net.account = registered.registration
        connected = client.ClientV2(registered.directory, net)
        return Order(account, connected, notes, connected.new_order(csr_pem.encode()))

    def _register(self, account: Account, notes: _Notes) -> _Registered:
        with self._lock:
            one_at_a_time = self._registering.setdefault(account, threading.Lock())
        with one_at_a_time:
            with self._lock:
                known = self._registered.get(account)
            if known is not None:
                return known
            key = JWKEC(key=ec.generate_private_key(ec.SECP256R1()))
            net = self._network(key, notes)
            directory = client.ClientV2.get_directory(account.directory_url, net)
            wanted = messages.NewRegistration.from_data(email=account.email or None, terms_of_service_agreed=True)
            made = _Registered(key, directory, client.ClientV2(directory, net).new_account(wanted))
            with self._lock:
                self._registered[account] = made
            return made

    def _network(self, key: JWKEC, notes: _Notes) -> _Network:
        net = _Network(key, alg=ES256, user_agent="devopsellence", timeout=self._request_seconds)
        net.session.hooks["response"].append(notes.hear)
        if self._ca_cert is not None:
            net.session.mount("https://", _Trusting(self._ca_cert))
        return net


class Order:
    """One order (RFC 8555, section 7.4), for one signing request. To be used by one thread at a time."""

    def __init__(
        self, account: Account, connected: client.ClientV2, notes: _Notes, order: messages.OrderResource
    ) -> None:
        self._account = account
        self._client = connected
        self._notes = notes
        self._order = order
        # Authorizations may be valid already: the authority remembers them.
        self._pending = [one for one in order.authorizations if one.body.status != messages.STATUS_VALID]
        self._challenges = [_http01(one) for one in self._pending]
        key = connected.net.key
        self._responses = [challenge.response_and_validation(key) for challenge in self._challenges]

    @property
    def challenges(self) -> Sequence[pb.Challenge]:
        """What is to be answered before :meth:`prove`; nothing, if the authority asks for nothing."""
        return [
            pb.Challenge(token=each.chall.encode("token"), key_authorization=validation)
            for each, (_, validation) in zip(self._challenges, self._responses, strict=True)
        ]

    def prove(self) -> None:
        """Have the authority look, and return when it is content.

        Raises:
            IssuanceError: it is not, or does not say.
        """
        with _told(self._account, self._notes):
            for each, (response, _) in zip(self._challenges, self._responses, strict=True):
                self._client.answer_challenge(each, response)
            for authorization in self._pending:
                self._await(authorization)

    def finalize(self) -> str:
        """The certificate and those that lead to its authority's, as PEM.

        Raises:
            IssuanceError: the authority does not make it.
        """
        with _told(self._account, self._notes):
            body = _asking(lambda body: body.status not in _ENDS)(self._advance)
            if body.status == messages.STATUS_VALID and body.certificate:
                return str(self._read(body.certificate).text)
            if body.error is not None:
                raise body.error
            raise IssuanceError(Failure(Kind.OTHER, f"{_name(self._account)} does not say why it makes no certificate"))

    def _advance(self) -> messages.Order:
        """How the order stands; one that is ready is finalized (RFC 8555, section 7.4)."""
        body: messages.Order = messages.Order.from_json(self._read(self._order.uri).json())
        if body.status == messages.STATUS_READY:
            self._client.begin_finalization(self._order)
        return body

    def _read(self, url: str) -> requests.Response:
        """POST-as-GET (RFC 8555, section 6.3)."""
        return self._client.net.post(url, None, new_nonce_url=self._client.directory["newNonce"])

    def _await(self, authorization: messages.AuthorizationResource) -> None:
        waiting = (messages.STATUS_PENDING, messages.STATUS_PROCESSING)
        body = _asking(lambda body: body.status in waiting)(lambda: self._client.poll(authorization)[0].body)
        if body.status == messages.STATUS_VALID:
            return
        problem = next((challenge.error for challenge in body.challenges if challenge.error is not None), None)
        if problem is None:
            raise IssuanceError(Failure(Kind.OTHER, f"{_name(self._account)} does not say why it is not content"))
        raise problem


@dataclass(frozen=True)
class _Registered:
    key: JWKEC = field(repr=False)
    directory: messages.Directory
    registration: messages.RegistrationResource


@dataclass
class _Notes:
    """What the library keeps to itself: how long the last answer wants us to wait, in seconds."""

    retry_after: float = 0.0

    def hear(self, response: Any, *_: object, **__: object) -> None:
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
    """Trusts the authorities in a file besides those that are trusted anyhow."""

    def __init__(self, ca_cert: Path) -> None:
        self._context = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
        self._context.load_verify_locations(ca_cert)
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)


def _asking(again: Callable[[Any], bool]) -> Retrying:
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
    raise IssuanceError(Failure(Kind.REJECTED, f"the authority lets {host} be proved by other means than HTTP alone"))


@contextmanager
def _told(account: Account, notes: _Notes | None = None) -> Iterator[_Notes]:
    """Every error of the libraries, as our own. The documents of authorities are for people, and are shown to them."""
    notes = notes or _Notes()
    name = _name(account)
    try:
        yield notes
    except messages.Error as error:
        kind = _KINDS.get(error.code or str(error.typ).rpartition(":")[2], Kind.OTHER)
        retry_after = notes.retry_after if kind is Kind.RATE_LIMITED else 0.0
        raise IssuanceError(Failure(kind, f"{name} refused: {_detail(error)}", retry_after)) from error
    except RetryError as error:
        detail = f"{name} has not come to an end within {AUTHORITY_SECONDS} s"
        raise IssuanceError(Failure(Kind.OTHER, detail)) from error
    except requests.exceptions.SSLError as error:
        detail = f"{name} shows a certificate that is not trusted here"
        raise IssuanceError(Failure(Kind.UNTRUSTED, detail)) from error
    except requests.exceptions.Timeout as error:
        detail = f"{name} does not answer in time"
        raise IssuanceError(Failure(Kind.UNREACHABLE, detail)) from error
    except requests.exceptions.ConnectionError as error:
        raise IssuanceError(Failure(Kind.UNREACHABLE, f"{name} cannot be reached")) from error
    except (requests.exceptions.RequestException, errors.Error, JoseError, ValueError, KeyError) as error:
        detail = f"{account.directory_url} does not answer as an ACME server does ({type(error).__name__})"
        raise IssuanceError(Failure(Kind.ACCOUNT, detail, notes.retry_after)) from error


def _detail(problem: messages.Error) -> str:
    """The problem document in a line."""
    parts = [str(problem.detail or problem.title or problem.typ)]
    parts += [str(each.detail) for each in problem.subproblems or () if each.detail]
    return " ".join(" ".join(parts).split()).rstrip(".")


def _name(account: Account) -> str:
    return urlsplit(account.directory_url).netloc or account.directory_url


def _seconds(retry_after: str) -> float:
    """The Retry-After header (RFC 9110, section 10.2.3): seconds, or a date; 0 if it is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        at = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    now = datetime.datetime.now(at.tzinfo)
    return max(0.0, (at - now).total_seconds())

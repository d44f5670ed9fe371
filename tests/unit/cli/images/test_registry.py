"""Docker's configuration with further logins."""

from __future__ import annotations

import base64

from devopsellence.cli.images.registry import PasswordLogin, with_logins


def test_logins_precede_those_of_the_user_and_of_a_credential_store() -> None:
    user = {
        "credsStore": "desktop",
        "credHelpers": {"r.example.com": "pass", "gcr.io": "gcloud"},
        "auths": {"r.example.com": {"auth": "b2xk"}, "quay.io": {"auth": "a2VwdA=="}},
        "proxies": {"default": {}},
    }
    logins = [PasswordLogin("r.example.com", "ann", "pass:word"), PasswordLogin("docker.io", "a", "b")]
    config = with_logins(user, logins)
    assert config["credsStore"] == "desktop"
    assert config["proxies"] == {"default": {}}
    assert config["credHelpers"] == {"r.example.com": "", "gcr.io": "gcloud", "https://index.docker.io/v1/": ""}
    assert config["auths"]["quay.io"] == {"auth": "a2VwdA=="}
    assert base64.b64decode(config["auths"]["r.example.com"]["auth"]) == b"ann:pass:word"
    assert base64.b64decode(config["auths"]["https://index.docker.io/v1/"]["auth"]) == b"a:b"


def test_configuration_of_wrong_type_is_replaced() -> None:
    config = with_logins({"auths": None, "credHelpers": []}, [PasswordLogin("r.example.com", "ann", "x")])
    assert list(config["auths"]) == list(config["credHelpers"]) == ["r.example.com"]


def test_password_is_not_shown() -> None:
    assert "sesame" not in repr(PasswordLogin("r.example.com", "ann", "sesame"))

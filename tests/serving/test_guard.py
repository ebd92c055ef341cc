"""Who is let in: by host, origin, password, token and rate."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from starlette.websockets import WebSocketDisconnect

from busi_monai.errors import InputError
from busi_monai.serving.credentials import Credentials, new_token_entry
from busi_monai.serving.limits import Limits


@pytest.fixture(scope="module")
def token() -> tuple[str, str]:
    return new_token_entry("robot")


@pytest.fixture(scope="module")
def auth_file(tmp_path_factory: pytest.TempPathFactory, token: tuple[str, str]) -> Path:
    path = tmp_path_factory.mktemp("auth") / "users"
    path.write_text(f"# users\n\n{new_token_entry('ali ce ü')[1]}\n{token[1]}\n", "utf-8")
    return path


def basic(user: str, password: str) -> dict[str, str]:
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"authorization": f"Basic {encoded}"}


def test_a_name_that_is_not_the_services_own_is_refused(rest):
    client = rest()
    for host in ("evil.example", "localhost.evil.example", "", "[", "127.0.0.1.evil.example"):
        response = client.get("/v1/health", headers={"host": host})
        assert response.status_code == 400, host
        assert response.json()["error"]["code"] == "unknown_host"
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "192.0.2.7"):
        assert client.get("/v1/health", headers={"host": host}).status_code == 200, host


def test_a_named_host_is_let_in(rest):
    client = rest(hosts=["bus.example"])
    assert client.get("/v1/health", headers={"host": "bus.example:443"}).status_code == 200


def test_another_sites_page_cannot_send(rest, png):
    client = rest()
    files = {"file": png}
    for origin in ("http://evil.example", "null", "http://localhost:81", "http://["):
        response = client.post("/v1/predict", files=files, headers={"origin": origin})
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "foreign_origin"
    own = client.post("/v1/predict", files=files, headers={"origin": "http://localhost"})
    assert own.status_code == 200


def test_websockets_pass_the_same_gate(rest, auth_file, token):
    client = rest(credentials=Credentials.load(auth_file))
    for headers in ({}, {"origin": "http://evil.example", **basic("robot", token[0])}):
        with (
            pytest.raises(WebSocketDisconnect) as caught,
            client.websocket_connect("/ui/_nicegui_ws/", headers=headers),
        ):
            pass
        assert caught.value.code == 1008


def test_tokens_are_let_in_and_no_one_else(rest, auth_file, token):
    client = rest(credentials=Credentials.load(auth_file))
    bare = client.get("/v1/health")
    assert bare.status_code == 401
    assert bare.headers["www-authenticate"].startswith("Basic ")
    assert bare.json()["error"]["code"] == "who_are_you"
    bearer = {"authorization": f"Bearer {token[0]}"}
    for right in (
        bearer,
        basic("robot", token[0]),
        basic("anyone ü", token[0]),
        basic("", token[0]),
    ):
        assert client.get("/v1/health", headers=right).status_code == 200, right
    for wrong in (
        basic("robot", token[0][:-1]),
        basic(token[0], ""),
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer"},
        {"authorization": "Basic !!!"},
        {"authorization": "Basic /w=="},
        {"authorization": f"Other {token[0]}"},
    ):
        assert client.get("/v1/health", headers=wrong).status_code == 401, wrong


def test_a_token_is_withdrawn_by_deleting_its_line(rest, auth_file, token, tmp_path):
    (tmp_path / "users").write_text(auth_file.read_text("utf-8").replace(token[1], ""), "utf-8")
    client = rest(credentials=Credentials.load(tmp_path / "users"))
    assert client.get("/v1/health", headers=basic("robot", token[0])).status_code == 401


def test_guessing_tokens_is_slowed_down_and_who_has_one_is_not(rest, auth_file, token):
    client = rest(credentials=Credentials.load(auth_file))
    wrong = {"authorization": "Bearer guessed"}
    found = [client.get("/v1/health", headers=wrong) for _ in range(12)]
    assert [answer.status_code for answer in found] == [401] * 10 + [429] * 2
    assert int(found[-1].headers["retry-after"]) >= 1
    assert client.get("/v1/health", headers=basic("robot", token[0])).status_code == 200


def test_more_requests_than_allowed_are_told_when_to_come_again(rest, png):
    client = rest(Limits(per_minute=2))
    found = [client.post("/v1/predict", files={"file": png}) for _ in range(3)]
    assert [response.status_code for response in found] == [200, 200, 429]
    assert found[2].json()["error"]["code"] == "too_many_requests"
    assert 1 <= int(found[2].headers["retry-after"]) <= 30
    assert client.get("/v1/health").status_code == 200


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice:plain",
        ":token$00",
        "a:token$xyz",
        "a:token$00$00",
    ],
)
def test_a_line_that_is_no_entry_is_named_by_number_only(line, tmp_path):
    path = tmp_path / "users"
    path.write_text(f"# comment\n{line}\n")
    with pytest.raises(InputError, match="line 2: expected") as caught:
        Credentials.load(path)
    assert "plain" not in str(caught.value)


def test_a_file_without_entries_lets_no_one_in_and_is_refused(tmp_path):
    (tmp_path / "users").write_text("# nothing\n")
    with pytest.raises(InputError, match="holds no entry"):
        Credentials.load(tmp_path / "users")
    with pytest.raises(InputError, match="cannot be read"):
        Credentials.load(tmp_path / "missing")


def test_a_password_of_an_earlier_release_is_told_what_takes_its_place(tmp_path):
    path = tmp_path / "users"
    path.write_text("alice:scrypt$16384$8$5$c2FsdHNhbHQ=$ZGlnZXN0\n")
    with pytest.raises(InputError, match=r"line 1: passwords are not .* --new-token NAME"):
        Credentials.load(path)


def test_a_name_with_a_colon_is_refused():
    with pytest.raises(InputError, match="colon"):
        new_token_entry("a:b")


def test_entries_do_not_hold_the_token(auth_file, token):
    assert token[0] not in auth_file.read_text("utf-8")

"""Who is let in: by host, origin, password, token and rate."""

from __future__ import annotations

import base64
from pathlib import Path

import anyio
import pytest
from starlette.websockets import WebSocketDisconnect

from busi_monai.errors import InputError
from busi_monai.serving.credentials import Credentials, new_token_entry, password_entry
from busi_monai.serving.guard import Guard
from busi_monai.serving.limits import Limits, RateLimiter

PASSWORD = "correct horse ü"


@pytest.fixture(scope="module")
def token() -> tuple[str, str]:
    return new_token_entry("robot")


@pytest.fixture(scope="module")
def auth_file(tmp_path_factory: pytest.TempPathFactory, token: tuple[str, str]) -> Path:
    path = tmp_path_factory.mktemp("auth") / "users"
    path.write_text(f"# users\n\n{password_entry('ali ce', PASSWORD)}\n{token[1]}\n", "utf-8")
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
    for origin in ("http://evil.example", "null", "http://localhost:81"):
        response = client.post("/v1/predict", files=files, headers={"origin": origin})
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "foreign_origin"
    own = client.post("/v1/predict", files=files, headers={"origin": "http://localhost"})
    assert own.status_code == 200


def test_websockets_pass_the_same_gate(rest, auth_file):
    client = rest(credentials=Credentials.load(auth_file))
    for headers in ({}, {"origin": "http://evil.example", **basic("ali ce", PASSWORD)}):
        with (
            pytest.raises(WebSocketDisconnect) as caught,
            client.websocket_connect("/ui/_nicegui_ws/", headers=headers),
        ):
            pass
        assert caught.value.code == 1008


def test_users_and_tokens_are_let_in_and_no_one_else(rest, auth_file, token):
    client = rest(credentials=Credentials.load(auth_file))
    bare = client.get("/v1/health")
    assert bare.status_code == 401
    assert bare.headers["www-authenticate"].startswith("Basic ")
    assert bare.json()["error"]["code"] == "who_are_you"
    for _ in range(2):
        assert client.get("/v1/health", headers=basic("ali ce", PASSWORD)).status_code == 200
    robot = {"authorization": f"Bearer {token[0]}"}
    assert client.get("/v1/health", headers=robot).status_code == 200
    for wrong in (
        basic("ali ce", "wrong password"),
        basic("robot", token[0]),
        basic("nobody", PASSWORD),
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic !!!"},
        {"authorization": "Other x"},
    ):
        assert client.get("/v1/health", headers=wrong).status_code == 401, wrong


def test_guessing_passwords_is_slowed_down(rest, auth_file):
    client = rest(credentials=Credentials.load(auth_file))
    wrong = {"authorization": "Bearer guessed"}
    found = [client.get("/v1/health", headers=wrong).status_code for _ in range(12)]
    assert found == [401] * 10 + [429] * 2
    response = client.get("/v1/health", headers=basic("ali ce", PASSWORD))
    assert response.status_code == 429 and int(response.headers["retry-after"]) >= 1


def test_who_was_let_in_before_is_not_slowed_down(rest, auth_file):
    client = rest(credentials=Credentials.load(auth_file))
    assert client.get("/v1/health", headers=basic("ali ce", PASSWORD)).status_code == 200
    for _ in range(11):
        client.get("/v1/health", headers={"authorization": "Bearer guessed"})
    assert client.get("/v1/health", headers=basic("ali ce", PASSWORD)).status_code == 200


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
        "alice:scrypt$2$8$1$YQ==$YQ==",
        ":token$00",
        "a:token$xyz",
        "a:scrypt$",
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


def test_short_passwords_and_names_with_colons_are_refused():
    with pytest.raises(InputError, match="at least 12"):
        password_entry("alice", "short")
    with pytest.raises(InputError, match="colon"):
        password_entry("a:b", PASSWORD)


def test_entries_hold_neither_password_nor_token(auth_file, token):
    text = auth_file.read_text("utf-8")
    assert PASSWORD not in text and token[0] not in text


def test_guesses_beside_each_other_count_one_by_one(auth_file, predictor):
    """However many come at once, ten are looked at, and the right one after them is let in."""
    credentials = Credentials.load(auth_file)
    looked_at = []

    class Counted:
        known = staticmethod(credentials.known)

        @staticmethod
        def accepted(authorization: str) -> str | None:
            looked_at.append(authorization)
            return None

    async def reached(*_: object) -> None:
        raise AssertionError("let in")

    rates = RateLimiter(0)
    guard = Guard(reached, hosts=["localhost"], credentials=Counted(), rates=rates)
    statuses: list[int] = []

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(int(str(message["status"])))

    async def ask(number: int) -> None:
        headers = {b"host": b"localhost"}
        headers[b"authorization"] = basic("ali ce", f"guess {number}")["authorization"].encode()
        scope = {"type": "http", "method": "GET", "path": "/", "headers": list(headers.items())}
        await guard({**scope, "client": ("192.0.2.1", 1)}, None, send)

    async def all_of_them() -> None:
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(ask, number)

    anyio.run(all_of_them)
    assert len(looked_at) == 10
    assert sorted(statuses) == [401] * 10 + [429] * 50

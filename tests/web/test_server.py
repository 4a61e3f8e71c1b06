import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.testclient import TestClient

from sft_data.errors import StoreError
from sft_data.store.log import check_log, read_log
from sft_data.store.manage import rollback, tag, untag
from sft_data.store.read import versions
from sft_data.web.access import Role, add_person, remove_person
from sft_data.web.asked import MAX_BODY
from sft_data.web.server import Serving, application, listen
from tests.report.chromium import browser, chromium, needs_chromium
from tests.trees import ROOT

HOSTILE = "<script>alert(1)</script>\u202e\x1b[31m"
ROW = "alpaca:alpaca_en.json:92"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions; a prompt of the second holds what a page must not run."""
    from sft_data.build import build
    from sft_data.pipeline import load_pipeline

    folder = tmp_path_factory.mktemp("web")
    rows = [
        {"instruction": f"Question {n}? {HOSTILE}", "output": f"An answer of some words, number {n}."} for n in range(9)
    ]
    (folder / "rows.json").write_bytes(orjson.dumps(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        pipeline = load_pipeline(Path("pipelines/quickstart.yaml"))
        build(pipeline, folder / "store")
        source = pipeline.sources[0].model_copy(update={"name": "odd", "path": str(folder / "rows.json")})
        build(pipeline.model_copy(update={"sources": (source,)}), folder / "store")
    return folder / "store"


@pytest.fixture
def store(built: Path) -> Iterator[Path]:
    yield built
    (built / "access.json").unlink(missing_ok=True)
    rollback(built, "quickstart@v2")


def client(store: Path, host: str = "127.0.0.1", **headers: str) -> TestClient:
    serving = Serving(str(store), store / "access.json", host)
    return TestClient(application(serving), "http://127.0.0.1:8321", headers=headers, follow_redirects=False)


def bearer(store: Path, name: str, role: Role) -> dict[str, str]:
    return {"authorization": f"Bearer {add_person(store / 'access.json', name, role)}"}


PAGES = [
    "/", "/version/quickstart@v1", "/report/quickstart", "/preview/quickstart@v1?n=1", "/preview/quickstart@v1?pack=0",
    f"/why/quickstart@v1?row={ROW}", "/diff?a=quickstart@v1&b=quickstart@v2", "/log",
    "/api/versions", "/api/versions?name=quickstart", "/api/show/quickstart", f"/api/why/quickstart@v1?row={ROW}",
    "/api/preview/quickstart@v1?n=1", "/api/preview/quickstart@v1?pack=0&split=validation",
    "/api/diff?a=quickstart@v1&b=quickstart@v2", "/api/verify/quickstart@v1", "/api/log",
]  # fmt: skip
CHANGES: list[tuple[str, dict[str, Any], Role]] = [
    ("/api/tag", {"version": "quickstart@v1", "tag": "by-web"}, Role.PUBLISHER),
    ("/api/rollback", {"version": "quickstart@v1"}, Role.PUBLISHER),
    ("/api/untag", {"version": "quickstart@v1", "tag": "by-web"}, Role.PUBLISHER),
    ("/api/gc", {}, Role.ADMIN),
]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("role", [None, *Role])
def test_who_may_read_sees_every_page_and_who_has_no_token_none(store: Path, page: str, role: Role | None) -> None:
    known = bearer(store, "someone", role or Role.READER)
    answer = client(store).get(page, headers=known if role else {})
    if role:
        assert answer.status_code == 200
    elif page.startswith("/api"):
        assert (answer.status_code, list(answer.json())) == (401, ["error"])
    else:
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login?next=%2F")


@pytest.mark.parametrize(("path", "sent", "needed"), CHANGES)
@pytest.mark.parametrize("role", [None, *Role])
def test_a_change_needs_its_role(store: Path, path: str, sent: dict[str, Any], needed: Role, role: Role | None) -> None:
    known = bearer(store, "someone", role or Role.READER)
    if path == "/api/untag":
        tag(store, sent["version"], sent["tag"])
    before = (store / "log.jsonl").read_bytes()
    answer = client(store).post(path, json=sent, headers=known if role else {})
    allowed = role is not None and role.may(needed)
    assert answer.status_code == (200 if allowed else 403 if role else 401)
    if not allowed:
        assert (store / "log.jsonl").read_bytes() == before


def test_json_is_what_the_command_line_prints(store: Path) -> None:
    for page, command in {
        "/api/versions": ("versions",),
        "/api/show/quickstart@v1": ("show", "quickstart@v1"),
        f"/api/why/quickstart@v1?row={ROW}": ("why", "quickstart@v1", ROW),
        "/api/diff?a=quickstart@v1&b=quickstart@v2": ("diff", "quickstart@v1", "quickstart@v2"),
        "/api/log": ("log",),
    }.items():
        printed = subprocess.run(
            [sys.executable, "-m", "sft_data.cli", *command, "--json", "--store", str(store)],
            cwd=ROOT, capture_output=True, check=True,
        ).stdout  # fmt: skip
        assert client(store).get(page).json() == orjson.loads(printed)


def test_the_log_names_the_person_who_asked(store: Path) -> None:
    known = bearer(store, "maria", Role.PUBLISHER)
    told = client(store).post("/api/tag", json={"version": "quickstart@v1", "tag": "chosen"}, headers=known)
    assert told.json() == {"version": "quickstart@v1", "tag": "chosen"}
    last = read_log(store)[-1]
    assert (last["what"], last["tag"]) == ("tag", "chosen")
    assert last["who"].startswith("maria through ")
    assert check_log(store) == []
    tag(store, "quickstart@v2", "chosen")
    assert not read_log(store)[-1]["who"].startswith("maria")
    untag(store, "quickstart", "chosen")


def test_a_tag_can_be_taken_away(store: Path) -> None:
    asked = client(store, origin="http://127.0.0.1:8321")
    tag(store, "quickstart@v1", "passing")
    assert "Take passing away" in asked.get("/version/quickstart@v1").text
    done = asked.post("/untag", data={"version": "quickstart@v1", "tag": "passing"})
    assert (done.status_code, done.headers["location"]) == (303, "/version/quickstart@v1?done=untagged")
    assert "The tag is gone." in asked.get(done.headers["location"]).text
    again = asked.post("/api/untag", json={"version": "quickstart", "tag": "passing"})
    assert again.status_code == 400
    assert "quickstart has no tag 'passing'" in again.json()["error"]
    assert read_log(store)[-1]["what"] == "untag"


def test_rolling_back_moves_latest(store: Path) -> None:
    client(store).post("/api/rollback", json={"version": "quickstart@v1"})
    assert [info.latest for info in versions(store)] == [True, False]


def test_gc_touches_nothing_unless_told_to(store: Path) -> None:
    known = bearer(store, "ada", Role.ADMIN)
    (store / "quickstart" / ".publish-dead").mkdir()
    os.utime(store / "quickstart" / ".publish-dead", (0, 0))
    asked = client(store)
    dry = asked.post("/api/gc", json={}, headers=known).json()
    assert dry["abandoned"] == ["quickstart/.publish-dead"]
    assert (store / "quickstart" / ".publish-dead").exists()
    assert asked.post("/api/gc", json={"remove": True}, headers=known).json()["removed"]
    assert not (store / "quickstart" / ".publish-dead").exists()
    for wrong in ({"remove": "yes"}, {"drafts_days": -1}, {"everything": True}, [], "x"):
        answer = asked.post("/api/gc", json=wrong, headers=known)
        assert answer.status_code == 400
        assert "error" in answer.json()


def test_without_people_everybody_on_this_machine_publishes_but_collects_no_garbage(store: Path) -> None:
    asked = client(store)
    assert asked.post("/api/tag", json={"version": "quickstart@v1", "tag": "here"}).status_code == 200
    assert asked.post("/api/gc", json={}).status_code == 403
    untag(store, "quickstart", "here")
    add_person(store / "access.json", "maria", Role.READER)  # while it runs
    assert asked.get("/api/versions").status_code == 401


def test_removing_the_last_person_leaves_a_network_server_closed(store: Path) -> None:
    known = bearer(store, "maria", Role.READER)
    asked = client(store, "0.0.0.0")  # noqa: S104 - that is what is tested
    assert asked.get("/api/versions", headers=known).status_code == 200
    remove_person(store / "access.json", "maria")
    assert asked.get("/api/versions", headers=known).status_code == 401
    assert asked.get("/api/versions").status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "data.example", "::"])  # noqa: S104
def test_a_network_address_asks_for_people_first(store: Path, host: str) -> None:
    with pytest.raises(StoreError, match="add people first"):
        client(store, host)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8321", "127.0.0.1.evil.example", "", "a@evil.example"])
def test_a_strange_name_for_this_machine_is_refused(store: Path, host: str) -> None:
    assert client(store).get("/api/versions", headers={"host": host}).status_code == 421
    assert client(store).get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("headers", [
    {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": "none"},
    {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:9999"},
])  # fmt: skip
@pytest.mark.parametrize("path", ["/api/tag", "/tag"])
def test_another_sites_page_changes_nothing(store: Path, headers: dict[str, str], path: str) -> None:
    before = (store / "log.jsonl").read_bytes()
    sent = {"version": "quickstart@v1", "tag": "forged"}
    assert client(store).post(path, data=sent, headers=headers).status_code == 403
    token = add_person(store / "access.json", "maria", Role.ADMIN)
    asked = client(store)
    asked.cookies.set("sft_data_token", token)
    assert asked.post(path, data=sent, headers=headers).status_code == 403
    assert asked.post(path, data=sent).status_code == 403  # a cookie, and nothing that says from where
    assert (store / "log.jsonl").read_bytes() == before


def test_signing_in_sets_a_cookie_that_works_and_signing_out_ends_it(store: Path) -> None:
    token = add_person(store / "access.json", "maria", Role.PUBLISHER)
    asked = client(store, **{"sec-fetch-site": "same-origin"})
    wrong = asked.post("/login", data={"token": "guess", "next": "/log"})
    assert wrong.status_code == 401
    assert "set-cookie" not in wrong.headers
    right = asked.post("/login", data={"token": f" {token} ", "next": "/log"})
    assert (right.status_code, right.headers["location"]) == (303, "/log")
    given = right.headers["set-cookie"].lower()
    assert "httponly" in given
    assert "samesite=strict" in given
    page = asked.get("/").text
    assert "maria" in page
    assert "sign out" in page
    done = asked.post("/tag", data={"version": "quickstart@v1", "tag": "signed"})
    assert (done.status_code, done.headers["location"]) == (303, "/version/quickstart@v1?done=tagged")
    assert "The tag is set." in asked.get(done.headers["location"]).text
    untag(store, "quickstart", "signed")
    assert asked.post("/logout").status_code == 303
    assert asked.get("/").status_code == 303


@pytest.mark.parametrize(
    "onward", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "", "/a\r\nx: y"]
)
def test_signing_in_goes_nowhere_else(store: Path, onward: str) -> None:
    token = add_person(store / "access.json", "maria", Role.READER)
    asked = client(store, **{"sec-fetch-site": "same-origin"})
    assert asked.post("/login", data={"token": token, "next": onward}).headers["location"] == "/"


def test_another_site_cannot_sign_somebody_in(store: Path) -> None:
    token = add_person(store / "access.json", "mallory", Role.READER)
    answer = client(store, origin="https://evil.example").post("/login", data={"token": token})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_a_damaged_access_file_lets_nobody_in_and_tells_no_stranger_where_it_lies(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = add_person(store / "access.json", "maria", Role.ADMIN)
    asked = client(store, **{"sec-fetch-site": "same-origin"})
    (store / "access.json").write_text("{")
    answers = [
        asked.get("/", follow_redirects=False),
        asked.get("/api/versions"),
        asked.get("/api/versions", headers={"authorization": f"Bearer {token}"}),
        asked.post("/api/rollback", json={"version": "quickstart@v1"}, headers={"authorization": f"Bearer {token}"}),
        asked.post("/login", data={"token": token}),
        asked.get("/login"),
    ]
    assert [answer.status_code for answer in answers] == [303, 401, 503, 503, 503, 200]
    assert not any(str(store) in answer.text for answer in answers)
    assert "access.json is damaged" in capsys.readouterr().err


SPECS = [
    "../store", "%2e%2e%2fetc", "..%2f..%2fetc%2fpasswd", "quickstart@../../x", "quickstart@%00", "%00",
    "QUICKSTART", "quickstart@" + "v" * 200, "x" * 5000, ".cache", "quickstart%2fv1", "%3Cscript%3E",
    "quickstart@v1/..",
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("page", ["/version/", "/report/", "/preview/", "/why/", "/api/show/", "/api/verify/"])
def test_an_address_is_never_a_path(store: Path, page: str, spec: str) -> None:
    answer = client(store).get(f"{page}{spec}?row=x")
    assert answer.status_code == 404
    assert "Traceback" not in answer.text
    assert answer.headers["content-type"] == "application/json" or "<script>" not in answer.text


@pytest.mark.parametrize("sent", [
    {"version": "../../etc", "tag": "x"}, {"version": "/srv/store/v1", "tag": "x"},
    {"version": "quickstart@v9", "tag": "x"}, {"version": "quickstart@v1", "tag": "latest"},
    {"version": "quickstart@v1", "tag": "a b"}, {"version": 1, "tag": "x"}, {"version": "quickstart@v1"}, {},
])  # fmt: skip
def test_what_cannot_be_tagged_is_told(store: Path, sent: dict[str, Any]) -> None:
    answer = client(store).post("/api/tag", json=sent)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_bodies_have_a_limit_and_must_be_what_they_say(store: Path) -> None:
    asked = client(store)
    assert asked.post("/api/tag", content=b"x" * (MAX_BODY + 1)).status_code == 413
    assert asked.post("/api/tag", content=b"{").status_code == 400
    assert asked.post("/api/tag", content=b"[1]").status_code == 400
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert asked.post("/api/tag", content=b"\xff\xfe=1", headers=form).status_code == 400
    assert asked.post("/api/tag", content=b"&".join(b"a=1" for _ in range(99)), headers=form).status_code == 400


@pytest.mark.parametrize("question", [
    "/preview/quickstart@v1?n=0", "/preview/quickstart@v1?n=-1", "/preview/quickstart@v1?n=x",
    "/preview/quickstart@v1?pack=99999", "/preview/quickstart@v1?pack=0&split=../../x", "/why/quickstart@v1",
    "/why/quickstart@v1?row=nothing:here:1", "/diff?a=quickstart@v1",
])  # fmt: skip
def test_a_question_without_an_answer_says_so(store: Path, question: str) -> None:
    asked = client(store)
    page, data = asked.get(question), asked.get(f"/api{question}")
    assert (page.status_code, data.status_code) == (404, 404)
    assert data.json()["error"]
    assert "could not be done" in page.text


@pytest.mark.parametrize("page", [*PAGES, "/login", "/nope", "/style.css", "/version/nope"])
def test_every_answer_forbids_scripts_frames_and_guessing(store: Path, page: str) -> None:
    headers = client(store).get(page).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert ("no-store" in headers["cache-control"]) == (page != "/style.css")


def test_texts_of_the_data_are_shown_and_never_run(store: Path) -> None:
    asked = client(store)
    pages = ["/report/quickstart@v2", "/preview/quickstart@v2?n=5", "/why/quickstart@v2?row=odd:rows.json:1"]
    for page in [*pages, "/diff?a=quickstart@v1&b=quickstart@v2"]:
        text = asked.get(page).text
        assert "<script" not in text.lower()
        assert "\u202e" not in text
        assert "\x1b" not in text
    assert "&lt;script&gt;" in asked.get(pages[2]).text


def test_an_empty_store_says_how_to_begin(tmp_path: Path) -> None:
    text = client(tmp_path).get("/").text
    assert "No versions yet" in text
    assert "sft-data build" in text


def test_unknown_addresses_and_methods_are_told_as_json(store: Path) -> None:
    asked = client(store)
    assert asked.get("/nope").json() == {"error": "there is no such page"}
    assert asked.delete("/api/tag").status_code == 405


@contextmanager
def running(store: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`sft-data serve` on a free port, and its address."""
    command = [sys.executable, "-m", "sft_data.cli", "serve", "--store", str(store), "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = ""
            while "}" not in told:
                line = process.stdout.readline()
                assert line
                told += line
            yield process, orjson.loads(told)["url"]
        finally:
            process.kill()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_serve_tells_its_address_answers_and_stops(store: Path, stop: signal.Signals) -> None:
    with running(store) as (process, url):
        with urllib.request.urlopen(f"{url}/api/versions", timeout=60) as answer:  # noqa: S310 - ours
            assert len(orjson.loads(answer.read())["versions"]) == 2
        process.send_signal(stop)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert err.splitlines()[0].startswith(f"serving {store} at {url} for everybody on this machine")
    assert err.splitlines()[-1] == "stopped"
    assert "Traceback" not in err


def test_a_port_that_is_taken_is_told(store: Path) -> None:
    with listen(Serving(str(store), store / "access.json", port=0)) as opened:
        port = opened.getsockname()[1]
        with pytest.raises(StoreError, match=f"cannot listen at 127.0.0.1:{port}"):
            listen(Serving(str(store), store / "access.json", port=port))


@browser
@needs_chromium
@pytest.mark.parametrize("width", [360, 1200])
def test_pages_fit_the_screen_and_ask_nobody_else(store: Path, tmp_path: Path, width: int) -> None:
    looked_at = ("/", "/version/quickstart@v2", f"/why/quickstart@v1?row={ROW}", "/log", "/report/quickstart@v2")
    with running(store) as (_, url), chromium(tmp_path / "profile") as tab:
        for page in looked_at:
            tab.loaded = False
            tab.open_url(f"{url}{page}", width=width)
            assert tab.value("document.documentElement.scrollWidth") <= width
            assert tab.value("getComputedStyle(document.body).fontFamily").startswith("system-ui")
        asked = {request.split("/")[2] for request in tab.requests if request.startswith("http")}
    assert asked == {url.split("/")[2]}
    assert tab.messages == []

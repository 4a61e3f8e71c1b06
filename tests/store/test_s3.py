"""A store on S3: a real server (moto) behind a proxy that can refuse every third request."""

from __future__ import annotations

import http.client
import itertools
import os
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sft_data.store.log import check_log, read_log
from sft_data.store.place import find_version, open_store, verify_version
from sft_data.store.read import load_manifest, version_folders
from sft_data.store.refs import read_refs
from sft_data.store.verify import verify
from tests.store.test_publish import tree
from tests.store.versions import ingredients, published

pytest.importorskip("s3fs")
pytest.importorskip("moto")

ROOT = Path(__file__).parents[2]
# SFT_DATA_RACE_ROUNDS=50 pytest -m slow tests/store/test_s3.py -k at_once
ROUNDS = int(os.environ.get("SFT_DATA_RACE_ROUNDS", "3"))


class Proxy(ThreadingHTTPServer):
    """Hands requests on. Every `every`-th one is lost on its way there or, in turn, its answer on the way back.

    S3 decides about a condition and writes in one step; moto looks first and writes then, so writes go one by one.
    """

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind = behind
        self.every = 0
        self.count = itertools.count(1)
        self.lost = itertools.count()
        self.writing = threading.Lock()
        self.failed = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        lost = self.server.every and next(self.server.count) % self.server.every == 0
        if lost:
            self.server.failed += 1
            if next(self.server.lost) % 2:
                self.ask(body)  # it arrives, and only the answer is lost
            self.answer(503, {"Content-Type": "application/xml"}, b"<Error><Code>SlowDown</Code></Error>")
            return
        self.answer(*self.ask(body))

    def ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        alone = self.server.writing if self.command in ("PUT", "POST", "DELETE") else threading.Lock()
        with alone:
            behind = http.client.HTTPConnection("127.0.0.1", self.server.behind)
            behind.request(self.command, self.path, body, dict(self.headers))
            told = behind.getresponse()
            return told.status, dict(told.getheaders()), told.read()

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

    def log_message(self, *_) -> None: ...


@pytest.fixture(scope="module")
def proxy():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    made = Proxy(port)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()
    # Each object is an open temporary file of the server's; left open, it would complain at the very end.
    request = urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(request, timeout=60).close()  # noqa: S310 - ours
    server.stop()


def s3_settings(proxy: Proxy) -> dict[str, str]:
    """What leads every S3 client of a process to the server."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_address[1]}",
        "AWS_MAX_ATTEMPTS": "2",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }


@pytest.fixture
def url(proxy, tmp_path, monkeypatch, request):
    """A new bucket, and a cache of this test's own."""
    import boto3
    import s3fs

    for name, value in {**s3_settings(proxy), "SFT_DATA_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SFT_DATA_KEY", raising=False)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"b-{abs(hash(request.node.name)) % 10**9}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    yield f"s3://{bucket}/team/store"
    proxy.every = 0


def test_store_on_s3_is_published_to_tagged_read_and_verified(url, tmp_path, monkeypatch):
    here = published(tmp_path / "store", tmp_path / "a")
    assert published(open_store(url, write=True), tmp_path / "b").version == "small@v1"
    assert published(open_store(url, write=True), tmp_path / "c", salt="2").version == "small@v2"
    monkeypatch.setenv("SFT_DATA_CACHE", str(tmp_path / "another machine"))
    there = find_version(url, "small@v1")
    one, two = tree(here.folder), tree(there.folder)
    one.pop("build.json"), two.pop("build.json")
    assert one == two
    assert verify_version(url, "small").ok


@pytest.mark.slow
def test_store_on_s3_that_fails_every_third_request_is_used_all_the_same(url, proxy, tmp_path, monkeypatch):
    proxy.every = 3
    before = proxy.failed
    for salt in "12":
        published(open_store(url, write=True), tmp_path / salt, salt=salt)
    monkeypatch.setenv("SFT_DATA_CACHE", str(tmp_path / "another machine"))
    assert verify(find_version(url, "small").folder).ok
    assert proxy.failed - before > 20
    store = open_store(url)
    assert [entry["number"] for entry in read_log(store)] == [1, 2]
    assert check_log(store) == []


PUBLISHER = """
import sys
from pathlib import Path
from sft_data.store.place import open_store
from sft_data.store.publish import publish
from tests.store.versions import ingredients

url, home, who, rounds = sys.argv[1:]
for number in range(int(rounds)):
    made = ingredients(Path(home) / f"{who}-{number}", salt=f"{who}-{number}")
    print("ready", flush=True)
    sys.stdin.readline()
    told = publish(open_store(url, write=True), made.manifest, made.files, made.texts, {})
    print(told.number, flush=True)
"""


def race(url: str, home: Path, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes on two machines (each has a cache of its own) publish at the same moment, round by round."""
    publishers = []
    for who in "ab":
        monkeypatch.setenv("SFT_DATA_CACHE", str(home / f"cache-{who}"))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        publishers.append(
            subprocess.Popen(
                [sys.executable, "-c", PUBLISHER, url, str(home), who, str(rounds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    for number in range(rounds):
        for publisher in publishers:
            assert publisher.stdout.readline() == "ready\n"
        for publisher in publishers:
            publisher.stdin.write("go\n")
            publisher.stdin.flush()
        taken = sorted(int(publisher.stdout.readline()) for publisher in publishers)
        assert taken == [2 * number + 1, 2 * number + 2]
    for publisher in publishers:
        publisher.communicate(timeout=60)
        assert publisher.returncode == 0
    monkeypatch.setenv("SFT_DATA_CACHE", str(home / "cache-reader"))
    store = open_store(url)
    folders = version_folders(store, "small")
    assert list(folders) == list(range(1, 2 * rounds + 1))
    wanted = {
        ingredients(home / f"again-{who}-{n}", salt=f"{who}-{n}").manifest.fingerprint
        for who in "ab"
        for n in range(rounds)
    }
    assert {load_manifest(folder).fingerprint for folder in folders.values()} == wanted
    assert read_refs(store, "small").latest == 2 * rounds
    assert check_log(store) == []


@pytest.mark.slow
def test_two_publishers_at_once_on_s3_lose_no_version(url, tmp_path, monkeypatch):
    race(url, tmp_path, ROUNDS, monkeypatch)


@pytest.mark.slow
def test_two_processes_at_once_in_a_folder_lose_no_version(tmp_path, monkeypatch):
    race(str(tmp_path / "store"), tmp_path, ROUNDS, monkeypatch)


@pytest.mark.slow
def test_publisher_on_s3_that_is_killed_leaves_whole_versions_only(url, tmp_path, monkeypatch, proxy):
    """Killed with SIGKILL at the moment when the server gets its n-th write."""
    published(open_store(url, write=True), tmp_path / "old", salt="old")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ask = Handler.ask
    for moment in (1, 3, 6):  # the sixth is the entry in the log: it arrives, and nobody hears of it
        monkeypatch.setenv("SFT_DATA_CACHE", str(tmp_path / f"cache-{moment}"))
        victim = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, url, str(tmp_path), f"k{moment}", "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        writes = itertools.count(1)

        def deadly(self, body, victim=victim, writes=writes, moment=moment):
            if self.command == "PUT" and next(writes) == moment:
                victim.kill()
            return ask(self, body)

        assert victim.stdout.readline() == "ready\n"
        with monkeypatch.context() as patch:
            patch.setattr(Handler, "ask", deadly)
            victim.communicate("go\n", timeout=60)
        assert victim.returncode == -9
        monkeypatch.setenv("SFT_DATA_CACHE", str(tmp_path / f"reader-{moment}"))
        for number in version_folders(open_store(url), "small"):
            assert verify_version(url, f"small@v{number}").ok
    assert published(open_store(url, write=True), tmp_path / "new", salt="new").reused is False
    assert verify_version(url, "small").ok


@pytest.mark.slow
def test_build_publishes_on_s3_and_knows_again_what_it_published(url, tmp_path, sft, monkeypatch):
    monkeypatch.chdir(ROOT)
    build = ("build", "pipelines/quickstart.yaml", "--store", url, "--workers", 1, "--json")
    assert sft(*build).json["version"] == "quickstart@v1"
    monkeypatch.setenv("SFT_DATA_CACHE", str(tmp_path / "another machine"))
    [listed] = sft("versions", "--store", url, "--json").json["versions"]
    assert listed["version"] == "quickstart@v1"
    monkeypatch.setenv("SFT_DATA_CACHE", str(tmp_path / "cache"))
    assert sft(*build).json["reused"]

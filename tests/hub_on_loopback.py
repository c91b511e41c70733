"""A small hub on loopback: what `huggingface_hub` and `datasets` ask for, and no more."""

import json
import threading
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789012345678901234567890123456789"


@contextmanager
def serve(repo: str, files: dict[str, bytes], revisions: tuple[str, ...] = ("main",)):
    """Serve files as the dataset `repo` under each revision; yields the endpoint for HF_ENDPOINT."""
    with serve_all({("datasets", repo): files}, revisions) as url:
        yield url


@contextmanager
def serve_all(repos: dict[tuple[str, str], dict[str, bytes]], revisions: tuple[str, ...] = ("main",)):
    """Serve `(models | datasets, owner/name): files` alike."""
    shelves = [Shelf(*of, files, revisions) for of, files in repos.items()]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            answers = (shelf.answer(path) for shelf in shelves)
            self.reply(*next((a for a in answers if a), (404, b"{}", "RepoNotFound")))

        do_HEAD = do_GET

        def reply(self, status: int, body: bytes, code: str | None = None):
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("ETag", f'"{sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Shelf:
    """One repository and the addresses it is asked under."""

    def __init__(self, kind: str, repo: str, files: dict[str, bytes], revisions: tuple[str, ...]):
        self.files = files
        self.api = f"/api/{kind}/{repo}"
        self.raw = f"/{repo}" if kind == "models" else f"/{kind}/{repo}"
        self.known = {self.api, *(f"{self.api}/revision/{revision}" for revision in (*revisions, COMMIT))}
        info = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files], "private": False}
        self.info = json.dumps(info).encode()
        self.tree = f"{self.api}/tree/{COMMIT}"

    def answer(self, path: str) -> tuple[int, bytes] | tuple[int, bytes, str] | None:
        """Status, body and error code of a request to this repository; None for another's."""
        if path in self.known:
            return 200, self.info
        if path == self.tree or path.startswith(f"{self.tree}/"):
            folder = path.removeprefix(self.tree).strip("/")
            entries = [
                {"type": "file", "path": name, "size": len(body), "oid": sha1(body).hexdigest()}
                for name, body in self.files.items()
                if name.startswith(f"{folder}/" if folder else "")
            ]
            return (200, json.dumps(entries).encode()) if entries else (404, b"{}", "EntryNotFound")
        if path.startswith(f"{self.raw}/resolve/"):
            name = path.removeprefix(f"{self.raw}/resolve/").partition("/")[2]
            return (200, self.files[name]) if name in self.files else (404, b"{}", "EntryNotFound")
        if path.startswith(f"{self.api}/revision/"):
            return 404, b"{}", "RevisionNotFound"
        if path.startswith((f"{self.api}/", f"{self.raw}/")):
            return 404, b"{}", "EntryNotFound"
        return None

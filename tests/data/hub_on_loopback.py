"""A hub of one dataset on loopback: what `huggingface_hub` and `datasets` ask for, and no more."""

import json
import threading
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789012345678901234567890123456789"


@contextmanager
def serve(repo: str, files: dict[str, bytes], revisions: tuple[str, ...] = ("main",)):
    """Serve files as the dataset `repo` under each revision; yields the endpoint for HF_ENDPOINT."""
    api = f"/api/datasets/{repo}"
    known = {api, *(f"{api}/revision/{revision}" for revision in (*revisions, COMMIT))}
    entries = [
        {"type": "file", "path": name, "size": len(body), "oid": sha1(body).hexdigest()} for name, body in files.items()
    ]
    info = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files], "private": False}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            name = path.rpartition("/")[2]
            if path in known:
                self.reply(200, json.dumps(info).encode())
            elif path == f"{api}/tree/{COMMIT}":
                self.reply(200, json.dumps(entries).encode())
            elif path.startswith(f"/datasets/{repo}/resolve/") and name in files:
                self.reply(200, files[name])
            elif path.startswith(f"{api}/revision/"):
                self.reply(404, b"{}", "RevisionNotFound")
            elif path.startswith((api, f"/datasets/{repo}")):
                self.reply(404, b"{}", "EntryNotFound")
            else:
                self.reply(404, b"{}", "RepoNotFound")

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

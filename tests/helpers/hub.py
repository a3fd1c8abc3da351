"""A server on the loopback address that speaks the protocol of the Hugging Face hub, and serves other files too."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What is served: folders of repositories, and files by their path.

    Attributes:
        address: of the server.
        repositories: "org/name", or "org/name@revision", to a folder.
        files: path, such as "/models/a.pth", to a file.
        requests: method, path and range of everything that was asked for.
        cut: paths that are cut off after so many bytes, once each.
        lies: paths of a repository whose announced hash is not theirs.
        silent: paths for which no length is given.
        moved: path to the address, or another path, that its requests are sent on to.
        xet: paths of a repository that are said to lie in Xet storage, which is not served.
    """

    def __init__(self) -> None:
        self.address = ""
        self.repositories: dict[str, Path] = {}
        self.files: dict[str, Path] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut: dict[str, int] = {}
        self.lies: set[str] = set()
        self.silent: set[str] = set()
        self.moved: dict[str, str] = {}
        self.xet: set[str] = set()

    def find(self, path: str) -> tuple[Path, dict[str, str]] | dict | list | None:
        """A file and its headers, a JSON answer, or None."""
        parts = path.strip("/").split("/")
        if path in self.files:
            return self.files[path], {}
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            what, revision = [*parts[4:6], "revision", "main"][:2] if len(parts) != 4 else ("revision", "main")
            folder, commit = self.at("/".join(parts[2:4]), revision)
            if folder is None:
                return None
            names = sorted(file.name for file in folder.iterdir())
            if what == "tree":
                return [_entry(folder / name) for name in names]
            return {
                "id": "/".join(parts[2:4]),
                "sha": commit,
                "siblings": [{"rfilename": name} for name in names],
                "private": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
        if len(parts) >= 5 and parts[2] == "resolve":
            folder, commit = self.at("/".join(parts[:2]), parts[3])
            if folder is None or not (folder / parts[4]).is_file():
                return None
            file = folder / parts[4]
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            if path in self.lies:
                digest = digest[::-1]
            large = file.suffix != ".json"
            tag = digest if large else digest[:40]
            headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit}
            if large:
                headers |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(file.stat().st_size)}
            if path in self.xet:
                headers |= {"X-Xet-Hash": digest, "Link": f'<{self.address}/api/xet-read-token>; rel="xet-auth"'}
            return file, headers
        return None

    def at(self, name: str, revision: str) -> tuple[Path | None, str]:
        """The folder of a repository at a revision, and its commit."""
        for known, folder in self.repositories.items():
            repository, _, tag = known.partition("@")
            commit = commit_of(tag) if tag else COMMIT
            if repository == name and revision in (tag or "main", commit):
                return folder, commit
        return None, COMMIT


def commit_of(revision: str) -> str:
    """The commit that a revision is of."""
    return hashlib.sha1(revision.encode()).hexdigest()


def _entry(file: Path) -> dict[str, object]:
    """What the hub says of a file in the list of a repository."""
    size, digest = file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
    large = {"lfs": {"oid": digest, "size": size, "pointerSize": 134}} if file.suffix != ".json" else {}
    return {"type": "file", "path": file.name, "size": size, "oid": digest[:40], **large}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serves a hub inside the ``with`` block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(urlparse(self.path).path)
            asked = self.headers.get("Range")
            hub.requests.append((self.command, path, asked))
            found = hub.find(path)
            if found is None:
                self.send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}, body)
            elif path in hub.moved:
                headers = {} if isinstance(found, dict | list) else found[1]
                self.send(302, b"", headers | {"Location": hub.moved[path]}, body)
            elif isinstance(found, dict | list):
                self.send(200, json.dumps(found).encode(), {"Content-Type": "application/json"}, body)
            else:
                file, headers = found
                data, status = file.read_bytes(), 200
                if asked and body:
                    start = int(asked.removeprefix("bytes=").partition("-")[0])
                    if start >= len(data):
                        self.send(416, b"", {"Content-Range": f"bytes */{len(data)}"}, body)
                        return
                    headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                    data, status = data[start:], 206
                self.send(
                    status, data, headers | {"Accept-Ranges": "bytes"}, body, hub.cut.pop(path, None) if body else None
                )

        def send(self, status: int, data: bytes, headers: dict[str, str], body: bool, cut: int | None = None) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            if unquote(urlparse(self.path).path) in hub.silent:
                self.close_connection = True
            else:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data if cut is None else data[:cut])
                if cut is not None:
                    self.close_connection = True

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

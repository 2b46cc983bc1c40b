#!/usr/bin/env python3
"""Makes `page.png`, the picture of the README: the page of two processes of this service on one server.

    cargo build -p kvtyped-web-service && examples/web_service/picture.py

Needs chromium and nats-server: on the PATH, or as NATS_SERVER. Without the latter, it uses the server of the tests.
"""

import http.server
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
SIZE = (1180, 470)
CAPTION = "Two processes, one NATS server: one leader, one session, one configuration"
PAGE = """<!doctype html><meta charset="utf-8">
<style>
  body {{ margin: 0; background: #e8ebef; font: 15px/1.4 system-ui, sans-serif; color: #444; }}
  main {{ display: grid; grid-template-columns: 1fr 1fr; gap: 14px; padding: 14px; }}
  figure {{ margin: 0; background: #fff; border-radius: 8px; overflow: hidden; box-shadow: 0 1px 4px #0003; }}
  figcaption {{ background: #d5dae1; padding: 6px 12px; font: 13px ui-monospace, monospace; }}
  iframe {{ border: 0; width: 100%; height: 365px; }}
  p {{ margin: 0; text-align: center; }}
</style>
<main>{windows}</main><p>{caption}</p>"""
WINDOW = '<figure><figcaption>{url}</figcaption><iframe src="{url}/?once" scrolling="no"></iframe></figure>'


def find_server():
    cached = sorted(str(path) for path in (TARGET / "tests").rglob("nats-server") if path.is_file())
    found = os.environ.get("NATS_SERVER") or shutil.which("nats-server") or (cached or [None])[-1]
    return found or exit("there is no nats-server: set NATS_SERVER, or run a test on a server first")


def until(what, probe):
    """Repeats the probe until it returns something."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if found := probe():
                return found
        except OSError:
            pass
        time.sleep(0.05)
    exit(f"{what} took too long")


def call(url, method="GET", body=None, headers=()):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **dict(headers)}, method=method)
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.headers, response.read()


def start_service(name, server):
    environment = {**os.environ, "KVTYPED_URL": server, "ADDRESS": "127.0.0.1:0", "NODE": name}
    program = TARGET / "debug" / "kvtyped-web-service"
    process = subprocess.Popen([program], env=environment, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().split()[-1]


def log_in(url):
    """Returns the cookie of a session. Cookies of a host apply to all of its ports."""
    ada = {"name": "Ada Lovelace", "email": "ada@example.com"}
    call(f"{url}/api/users", "POST", ada)
    headers, _ = call(f"{url}/api/login", "POST", ada)
    return headers["set-cookie"].split(";")[0]


def main():
    running, folder = [], tempfile.TemporaryDirectory()
    try:
        ports = pathlib.Path(folder.name) / "ports"
        ports.mkdir()
        options = ["-js", "-sd", folder.name, "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", ports]
        running.append(subprocess.Popen([find_server(), *options], stderr=subprocess.DEVNULL))
        written = until("the server", lambda: next(ports.glob("*.ports"), None))
        server = until("its port", lambda: json.loads(written.read_text() or "{}").get("nats"))[0]

        urls = []
        for name in ("web-1", "web-2"):
            process, url = start_service(name, server)
            running.append(process)
            urls.append(url)
        cookie = log_in(urls[0])
        call(f"{urls[1]}/api/config", "PUT", {"greeting": "Hello from two processes"}, {"if-none-match": "*"})

        def is_ready():
            states = [json.loads(call(f"{url}/api/state", headers={"cookie": cookie})[1]) for url in urls]
            return all(state["leader"] and "two" in state["config"]["greeting"] for state in states)

        until("a leader", is_ready)
        page = PAGE.format(caption=CAPTION, windows="".join(WINDOW.format(url=url) for url in urls))

        class Wrapper(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("content-type", "text/html; charset=utf-8")
                self.send_header("set-cookie", f"{cookie}; Path=/")
                self.end_headers()
                self.wfile.write(page.encode())

            def log_message(self, *_):
                pass

        wrapper = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Wrapper)
        threading.Thread(target=wrapper.serve_forever, daemon=True).start()
        picture = HERE / "page.png"
        subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=8000",
             f"--window-size={SIZE[0]},{SIZE[1]}", f"--screenshot={picture}", f"http://127.0.0.1:{wrapper.server_port}/"],
            check=True, stderr=subprocess.DEVNULL, timeout=120,
        )
        print(f"{picture}: {picture.stat().st_size} bytes")
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(20)
        folder.cleanup()


if __name__ == "__main__":
    main()

"""Try the model in a browser: one page with the runtime, every ONNX file and the golden vectors inside it.

    python commands/demo.py                 serves the page on 127.0.0.1 until Ctrl-C
    python commands/demo.py --html FILE     writes it: a file that works without a server or a network

`make demo` installs what it needs (onnxruntime-web, by npm, into web/) and serves.
"""

import argparse
import http.server
import sys
from http import HTTPStatus
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "stages"))

from shared.kit import end_in_one_line  # noqa: E402 - after the path to it

if __name__ == "__main__":
    end_in_one_line()

from shared.kit.stage import run, write_bytes  # noqa: E402
from shared.release.webpage import describe_run, read_sources, render  # noqa: E402

HOST = "127.0.0.1"


def handler_of(page: bytes) -> type[http.server.BaseHTTPRequestHandler]:
    """What answers a browser: the page at `/`, and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/"
            self.send_response(HTTPStatus.OK if found else HTTPStatus.NOT_FOUND)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page) if found else 0))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            if found:
                self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's own name
            pass

    return Handler


def main() -> None:
    """Read the arguments; make the page; write it, or serve it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page there instead of serving it")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free (default: 8000)")
    args = parser.parse_args()
    if not 0 <= args.port < 2**16:
        parser.error(f"--port {args.port}: expected 0 to 65535")
    page = render(read_sources(PROJECT / "web"), describe_run(Path()))
    if args.html:
        write_bytes(args.html, page)
        print(f"{args.html}: {len(page) / 1e6:.1f} MB")
        return
    with http.server.ThreadingHTTPServer((HOST, args.port), handler_of(page)) as server:
        print(f"http://{HOST}:{server.server_port}/ shows the page; Ctrl-C ends it", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    run(main)

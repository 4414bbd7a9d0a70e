"""A server of chat completions that answers by a script, and the ways in which such servers misbehave."""

import gzip
import json
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPLY = '{"thought": "t", "response": "there are 3 ."}'


def completion(text, finish_reason="stop", **message):
    message = {"role": "assistant", "content": text} | message
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m"} | {
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": message}]
    }


class Server(ThreadingHTTPServer):
    """Answers by the next of ``script``, then by ``default``: (status, headers, body) or a function of the question.

    A body that is a list of bytes is sent in drops, each a tenth of a second after the one before; a body that is a function
    of the handler writes to the connection itself.
    """

    daemon_threads = True
    request_queue_size = 128  # with the usual 5, connections are refused that come at the same time

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.default, self.questions, self.keys = [], say(REPLY), [], []
        self.lock, self.going, self.most = threading.Lock(), 0, 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """A client that hung up is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.questions.append(question)
            server.keys.append(self.headers["Authorization"])
            answer = server.script.pop(0) if server.script else server.default
            server.going += 1
            server.most = max(server.most, server.going)
        status, headers, body = answer(question) if callable(answer) else answer
        with server.lock:
            server.going -= 1
        if callable(body):
            body(self)
            self.close_connection = True
            return
        drops = body if isinstance(body, list) else []
        content = body if isinstance(body, bytes) else b"".join(drops) or json.dumps(body).encode()
        content = content.replace(b"ECHO", self.headers["Authorization"].encode())
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(key, value.replace("SELF", self.path))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        for part in drops or [content]:
            self.wfile.write(part)
            time.sleep(0.1 * bool(drops))

    def log_message(self, *arguments):
        """Nothing on the screen."""


def say(text, **fields):
    return 200, {}, completion(text, **fields)


def raw(content):
    """A body as it is."""
    return 200, {}, content


def written(content, reset=False):
    """Bytes in the place of HTTP, after which the connection ends."""

    def write(handler):
        handler.wfile.write(content)
        handler.wfile.flush()
        if reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            handler.connection.shutdown(socket.SHUT_RDWR)
        handler.connection.close()

    return 200, {}, write


def page(status, kind="text/html", text=b"<html><body>Bad gateway</body></html>", **headers):
    return status, {"Content-Type": kind, **headers}, text


WHOLE = json.dumps(completion(REPLY)).encode()
_JSON = b'{"choices": '

# What may pass: asked again, the server may answer.
PASSING = {
    "500": page(500, text=b"boom"),
    "503 page": page(503, text=b"<html>" + b"x" * 100_000),
    "500 that echoes the key": (500, {}, b'{"error": {"message": "key ECHO"}}'),
    "an answer that echoes the key": say("no JSON {ECHO"),
    "200 with an error that echoes the key": (200, {}, {"error": {"message": "a" * 118 + " key ECHO"}}),
    **{
        f"429, wait {wait}": (429, {"Retry-After": wait}, b"{}")
        for wait in ("0", "-5", "nan", "Wed, 21 Oct 2099 07:28:00 GMT")
    },
    "html": page(200),
    "html called json": raw(b"<html>"),
    "other content type": page(200, "text/plain", WHOLE),
    "stream": page(
        200, "text/event-stream", b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n'
    ),
    "nothing": raw(b""),
    "cut json": raw(WHOLE[:40]),
    "invalid utf-8": raw(WHOLE.replace(b"there", b"\xff\xfe")),
    "nested json": raw(b"[" * 100_000),
    **{
        f"body {body.decode()}": raw(body)
        for body in (b"[1, 2]", b"null", b"5", b'{"error": {"message": "overloaded"}}')
    },
    **{
        f"choices {choices.decode()}": raw(_JSON + choices + b"}")
        for choices in (
            b"[]",
            b"null",
            b'"abc"',
            b'{"0": {}}',
            b"5",
            b"[null]",
            b'[{"message": "hi"}]',
            b"[{}]",
            b"[[]]",
        )
    },
    "no content": say(None),
    "a number": say(5),
    "parts": say([{"type": "text", "text": "hi"}]),
    "blank": say("  \n"),
    "half a surrogate pair": say("hello \ud800 there"),
    "half a surrogate pair in JSON": say('{"response": "hello \\ud800 there"}'),
    "no finish_reason": say(REPLY, finish_reason=None),
    "cut": say('{"thought": "t", "response": "the pain began two', finish_reason="length"),
    "cut but readable": say(REPLY, finish_reason="length"),
    "cut plain text": say("The pain began two days ago and", finish_reason="length"),
    "filtered": say("I cannot help with that.", finish_reason="content_filter"),
    "a tool": say(None, finish_reason="tool_calls", tool_calls=[{"id": "1", "type": "function"}]),
    "only reasoning": say("", reasoning_content="The score is 7"),
    "a thought without end": say("<think>The answer is 42, I must not tell it."),
    "a refusal": say(None, refusal="no"),
    "no response": say('{"thought": "no response"}'),
    "nested reply": say('{"thought":' * 3000),
    "many quotes": say('{"' * 15_000),
    "long": say("a" * 1_000_000),
    "very long": say("a" * 5_000_000),
    "bad gzip": (200, {"Content-Encoding": "gzip"}, b"not gzip"),
    "much from little": (200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * 50_000_000, 1)),
    "hung up": written(b""),
    "half an answer": written(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
    ),
    "reset": written(b"", reset=True),
    "no http": written(b"NOT HTTP AT ALL\r\n\r\n"),
    "many headers": written(
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 1000) for n in range(500))
    ),
    "drops": (200, {}, [b" "] * 20),
    "silence": (200, {}, lambda handler: time.sleep(3)),
}
# What will not: the question is not repeated.
FINAL = {
    "400": (400, {}, {"error": {"message": "context length"}}),
    "401 that echoes the key": (401, {}, b'{"error": {"message": "Incorrect API key provided: ECHO"}}'),
    "404": page(404, "text/plain", b"nope"),
    "302": (302, {"Location": "SELF"}, b""),
    "307": (307, {"Location": "SELF"}, b""),
    "302 to a file": (302, {"Location": "file:///etc/passwd"}, b""),
}

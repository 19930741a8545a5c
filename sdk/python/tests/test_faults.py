"""What breaks between a client and its server, made by a relay that stands between the real ones."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Generator, Iterator, List, Tuple
from urllib.parse import urlsplit

import pytest

from codegen import Agent, CodegenError, ConnectionFailed, RateLimited, ServerError, Task, WaitTimeout

from conftest import Server, finish, serving, shell

#: Gets the request, and the connections of both sides.
Fault = Callable[[bytes, socket.socket, Callable[[], socket.socket]], None]


class Relay:
    """Hands each request on over a connection of its own, the first ones by way of a fault each."""

    def __init__(self, to: str, faults: List[Fault]) -> None:
        address = urlsplit(to)
        self._to = (address.hostname or "", address.port or 0)
        self._faults = faults
        self.requests: List[Tuple[str, bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            request = read_request(client)
            if not request:
                return
            self.requests.append((request.split(b"\r\n")[0].decode(), request))
            fault = self._faults.pop(0) if self._faults else pass_on
            fault(request, client, lambda: socket.create_connection(self._to))

    def close(self) -> None:
        self._listener.close()


def read_request(client: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        more = client.recv(65536)
        if not more:
            return b""
        request += more
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].split(b":")[1]) if lengths else 0
    while len(body) < length:
        body += client.recv(65536)
    return head.replace(b"keep-alive", b"close") + b"\r\n\r\n" + body


def answer_of(request: bytes, connect: Callable[[], socket.socket]) -> Iterator[bytes]:
    with connect() as server:
        server.sendall(request)
        while True:
            chunk = server.recv(65536)
            if not chunk:
                return
            yield chunk


def pass_on(request: bytes, client: socket.socket, connect: Callable[[], socket.socket]) -> None:
    for chunk in answer_of(request, connect):
        client.sendall(chunk)


def swallow_the_answer(request: bytes, client: socket.socket, connect: Callable[[], socket.socket]) -> None:
    for _ in answer_of(request, connect):
        pass


def hang_up(request: bytes, client: socket.socket, connect: Callable[[], socket.socket]) -> None:
    pass


def say_nothing(request: bytes, client: socket.socket, connect: Callable[[], socket.socket]) -> None:
    client.recv(1)


def page(request: bytes, client: socket.socket, connect: Callable[[], socket.socket]) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: 15\r\n\r\n<html>Log in...")


def cut_after(size: int) -> Fault:
    def fault(request: bytes, client: socket.socket, connect: Callable[[], socket.socket]) -> None:
        sent = 0
        for chunk in answer_of(request, connect):
            client.sendall(chunk[: size - sent])
            sent += len(chunk)
            if sent >= size:
                return

    return fault


def answer(status: str, *headers: str) -> Fault:
    def fault(request: bytes, client: socket.socket, connect: Callable[[], socket.socket]) -> None:
        lines = [f"HTTP/1.1 {status}", "Content-Length: 0", "Connection: close", *headers, "", ""]
        client.sendall("\r\n".join(lines).encode())

    return fault


@contextmanager
def through(server: Server, *faults: Fault, **options: int) -> Generator[Tuple[Agent, Relay], None, None]:
    relay = Relay(server.url, list(faults))
    try:
        with server.agent(base_url=relay.url, **options) as agent:
            yield agent, relay
    finally:
        relay.close()


def test_a_create_whose_answer_is_lost_is_sent_again_and_makes_one_run(server: Server, agent: Agent) -> None:
    with through(server, swallow_the_answer, answer("502 Bad Gateway"), swallow_the_answer) as (unlucky, relay):
        task = unlucky.run("Say hello", tags=["lost"])
    assert len(relay.requests) == 4
    keys = {line for _, request in relay.requests for line in request.split(b"\r\n") if b"dempotency-" in line}
    assert len(keys) == 1, keys
    assert [run.id for run in agent.runs(tag="lost")] == [task.id]


def test_a_resume_whose_answer_is_lost_tells_the_run_once(server: Server, agent: Agent) -> None:
    task = agent.run("Say hello").wait(timeout=60)
    with through(server, pass_on, swallow_the_answer) as (unlucky, _):
        unlucky.get(task.id).resume("And goodbye").wait(timeout=60)
    said = [entry.observation for entry in task.logs() if entry.message_type == "USER_MESSAGE"]
    assert said.count("And goodbye") == 1, said


def test_a_rule_is_not_added_twice_where_nobody_knows_whether_it_was(server: Server, agent: Agent) -> None:
    before = len(list(agent.rules()))
    with through(server, swallow_the_answer) as (unlucky, relay), pytest.raises(ConnectionFailed, match=relay.url):
        unlucky.add_rule("Once.")
    assert len(list(agent.rules())) == before + 1


def test_a_wait_that_the_server_asks_for_is_kept(server: Server) -> None:
    with through(server, answer("503 Service Unavailable", "Retry-After: 1")) as (agent, relay):
        began = time.monotonic()
        assert agent.me().id
        assert time.monotonic() - began >= 1
    with through(server, answer("429 Too Many Requests", "Retry-After: 3600")) as (agent, relay):
        with pytest.raises(RateLimited) as refused:
            agent.me()
        assert refused.value.retry_after == 3600 and len(relay.requests) == 1, "nobody waits an hour unasked"
    task = server.agent().run("Say hello").wait(timeout=60)
    with through(server, pass_on, answer("429 Too Many Requests", "Retry-After: 3600")) as (agent, _):
        with pytest.raises(RateLimited):
            list(agent.get(task.id).stream())


def test_waiting_is_patient_but_not_beyond_its_time(server: Server, agent: Agent) -> None:
    task = agent.run("Say hello").wait(timeout=60)
    with through(server, pass_on, hang_up, answer("503 Service Unavailable"), hang_up, max_retries=1) as (unlucky, relay):
        assert unlucky.get(task.id).wait(timeout=60).status == "completed"
        assert len(relay.requests) == 5, "three times as many tries as usual"
    with through(server, pass_on, *[answer("429 Too Many Requests", "Retry-After: 30")] * 9) as (unlucky, relay):
        began = time.monotonic()
        with pytest.raises(WaitTimeout):
            unlucky.get(task.id).wait(timeout=0.5)
        assert 0.5 <= time.monotonic() - began < 5
    with through(server, pass_on, say_nothing) as (unlucky, relay):
        began = time.monotonic()
        with pytest.raises(WaitTimeout):
            unlucky.get(task.id).wait(timeout=1)
        assert 1 <= time.monotonic() - began < 5


def test_a_create_that_is_still_under_way_is_asked_for_again(server: Server, agent: Agent) -> None:
    still = answer("409 Conflict")
    with through(server, swallow_the_answer, still, still) as (unlucky, _):
        task = unlucky.run("Say hello", tags=["under way"])
    assert [run.id for run in agent.runs(tag="under way")] == [task.id]


def test_what_is_no_codegen_server_is_said_to_be_none(server: Server) -> None:
    with through(server, page) as (agent, _), pytest.raises(CodegenError, match="does not answer as a codegen server"):
        agent.me()


def test_a_restart_of_the_server_is_outlasted(tmp_path: Path) -> None:
    replies = [shell("echo begun; sleep 600")]
    with serving(tmp_path, replies) as server:
        agent = server.agent()
        task = agent.run("Work for long")
        events = task.stream()
        next(event for event in events if event.kind == "call_started")
        waited: List[Task] = []
        other = agent.get(task.id)
        waiting = threading.Thread(target=lambda: waited.append(other.wait(timeout=120)))
        waiting.start()
    address = server.url.replace("http://", "")
    with serving(tmp_path, replies, addr=address, token=server.token):
        task.stop()
        seqs = [event.seq for event in events if event.seq is not None]
        waiting.join(timeout=120)
        assert seqs == sorted(set(seqs)) and waited and waited[0].status == "cancelled"


def test_tries_end(server: Server) -> None:
    with through(server, *[answer("500 Internal Server Error")] * 9, max_retries=2) as (agent, relay):
        with pytest.raises(ServerError, match="the server answered 500"):
            agent.me()
        assert len(relay.requests) == 3
    with through(server, *[hang_up] * 9, max_retries=1) as (agent, relay):
        with pytest.raises(ConnectionFailed, match=f"no answer from {relay.url}"):
            agent.run("Say hello")
        with pytest.raises(ConnectionFailed):
            list(agent.get(1).stream())
    with pytest.raises(ConnectionFailed):
        server.agent(base_url="http://127.0.0.1:1", max_retries=0).me()


def test_a_stream_that_breaks_goes_on_with_each_entry_once(server: Server, agent: Agent) -> None:
    task = agent.run("Say hello").wait(timeout=60)
    whole = [event for event in task.stream() if event.seq is not None]
    for size in (300, 700, 1100, 1500):
        faults = [pass_on, cut_after(size), answer("503 Service Unavailable"), hang_up, cut_after(size + 200)]
        with through(server, *faults) as (unlucky, relay):
            events = list(unlucky.get(task.id).stream())
            assert [event for event in events if event.seq is not None] == whole and events[-1].kind == "end"
            assert len(relay.requests) > 3


def test_a_limit_of_the_server_is_an_error_with_its_words(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("limited"), [finish("Done.")], CODEGEN_RATE_LIMITS="on") as server:
        with server.agent(max_retries=0) as agent, pytest.raises(RateLimited) as refused:
            for n in range(20):
                agent.run(f"Run {n}")
        assert refused.value.retry_after and refused.value.message

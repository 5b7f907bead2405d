"""The whole chain with real servers: self-connect, exporter, Prometheus, Alertmanager, webhook; and the dashboard."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.itself import connected_to_itself

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("network")]

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/prometheus/tailbite.rules.yml"
DASHBOARD = ROOT / "deploy/grafana/tailbite.json"
PORT = 5432
HELD = "TailbiteSelfConnectHeld"
CALM_S = 0.05
"""A thread of a machine with CPUs to spare runs within this time."""


@contextlib.contextmanager
def running(*command: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, and end it."""
    log = (cwd / f"{Path(command[0]).name}.log").open("wb")
    with log, subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def answer_of(url: str) -> Any:
    """Return the answer to a query, or None while it has no series."""
    answer = ask(url)
    return answer if answer["data"]["result"] else None


def wait_until(is_so: Callable[[], Any]) -> Any:
    while True:  # the test's time limit ends a failure
        with contextlib.suppress(OSError):
            if found := is_so():
                return found
        time.sleep(0.05)


@pytest.fixture
def prometheus(tmp_path: Path, peer: Callable[[str], str]) -> Iterator[str]:
    """The exporter, and a Prometheus that scrapes it; yields its address."""
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: [{tmp_path}/rules.yml]\n"
        "alerting: {alertmanagers: [{static_configs: [{targets: ['127.0.0.1:9093']}]}]}\n"
        "scrape_configs: [{job_name: tailbite, static_configs: [{targets: ['127.0.0.1:9745']}]}]\n"
    )
    # The rule as it is shipped, but for its patience.
    (tmp_path / "rules.yml").write_text(re.sub(r"for: \w+", "for: 2s", RULES.read_text()))
    exporter = ("exporter", "--web.listen-address", "127.0.0.1:9745", "--netns", "self", "--every", "2s")
    options = ("--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:9090", "--config.file=prometheus.yml")
    with (
        running(sys.executable, "-m", "tailbite", *exporter, cwd=tmp_path),
        running(peer("prometheus"), *options, cwd=tmp_path),
    ):
        url = "http://127.0.0.1:9090"
        wait_until(partial(answer_of, f"{url}/api/v1/query?query=tailbite_last_look_timestamp_seconds"))
        yield url


class Webhook(http.server.HTTPServer):
    """Keeps the alerts of self-connects that are sent to it."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        self.came = threading.Event()
        received = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                received.alerts += [one for one in body["alerts"] if one["labels"]["alertname"] == HELD]
                if received.alerts:  # a busy machine may have others fire as well
                    received.came.set()
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 9999), Handler)


class LongestStall:
    """The longest time for which a thread that wanted to run could not: what a busy machine adds to each step."""

    def __enter__(self) -> LongestStall:
        self.seconds = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(0.01):
            now = time.monotonic()
            self.seconds, before = max(self.seconds, now - before - 0.01), now


@pytest.mark.timeout(400)
def test_a_self_connect_reaches_the_webhook(prometheus: str, tmp_path: Path, peer: Callable[[str], str]) -> None:
    """Measured on two quiet cores: 8 s. The promise of 15 s is held wherever the machine lets programs run."""
    (tmp_path / "alertmanager.yml").write_text(
        "route: {receiver: hook, group_wait: 1s}\n"
        "receivers: [{name: hook, webhook_configs: [{url: 'http://127.0.0.1:9999/'}]}]\n"
    )
    options = ("--config.file=alertmanager.yml", "--storage.path=alerts", "--cluster.listen-address=")
    alertmanager = peer("prometheus-alertmanager")
    with Webhook() as webhook, running(alertmanager, *options, "--web.listen-address=127.0.0.1:9093", cwd=tmp_path):
        threading.Thread(target=webhook.serve_forever, daemon=True).start()
        wait_until(lambda: ask("http://127.0.0.1:9093/api/v2/status"))
        assert webhook.alerts == []
        start = time.monotonic()
        with connected_to_itself(PORT), LongestStall() as stall:
            webhook.came.wait(150)
            took = time.monotonic() - start
        webhook.shutdown()
    alert = webhook.alerts[0]
    assert alert["status"] == "firing"
    assert alert["labels"]["port"] == str(PORT)
    assert alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["summary"] == f"Port {PORT} on 127.0.0.1:9745 is connected to itself."
    is_busy = stall.seconds > CALM_S or os.getloadavg()[0] > (os.cpu_count() or 1)
    assert took <= 15.0 or is_busy, f"{took:.1f} s, though no program had to wait for more than {stall.seconds:.3f} s"


@pytest.mark.timeout(400)
def test_every_query_of_the_dashboard_has_an_answer(prometheus: str) -> None:
    """A rate needs two scrapes; a count of what does not happen may be empty."""
    dashboard = json.loads(DASHBOARD.read_text())
    queries = {target["expr"] for panel in dashboard["panels"] for target in panel["targets"]}
    assert len(queries) >= 15
    may_be_empty = ("tailbite_exposed_listeners", "tailbite_host_guard_in_place", "tailbite_self_connects")
    with connected_to_itself(PORT):
        for query in queries:
            text = query.replace("$instance", ".*").replace("$__rate_interval", "1m")
            url = f"{prometheus}/api/v1/query?query={urllib.parse.quote(text)}"
            answer = ask(url) if any(map(text.__contains__, may_be_empty)) else wait_until(partial(answer_of, url))
            assert answer["status"] == "success"
        held = urllib.parse.quote('tailbite_self_connects{state="held"}')
        (found,) = wait_until(lambda: ask(f"{prometheus}/api/v1/query?query={held}")["data"]["result"])
        assert (found["metric"]["port"], found["value"][1]) == (str(PORT), "1")
        (today,) = (
            query.replace("$instance", ".*") for query in queries if query.startswith("sum(") and "24h" in query
        )
        url = f"{prometheus}/api/v1/query?query={urllib.parse.quote(today)}"
        # The first self-connect of a port begins its counter at 1: increase() alone says 0.
        wait_until(lambda: float(ask(url)["data"]["result"][0]["value"][1]) == 1.0)


def test_the_metrics_are_as_promtool_wants_them(peer: Callable[[str], str]) -> None:
    with connected_to_itself(PORT):
        command = [sys.executable, "-m", "tailbite", "check", "--as", "prometheus", "--netns", "self"]
        metrics = subprocess.run(command, capture_output=True, check=True).stdout
    assert b'tailbite_self_connects{port="5432",state="held",where="host"} 1.0\n' in metrics
    done = subprocess.run([peer("promtool"), "check", "metrics"], input=metrics, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def promtool(peer: Callable[[str], str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [peer("promtool"), "test", "rules", "tailbite.test.yml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.timeout(300)
def test_each_rule_is_held_by_its_unit_tests(tmp_path: Path, peer: Callable[[str], str]) -> None:
    """Each rule, made never to fire and made always to fire, breaks a test of its own."""
    tests = RULES.with_name("tailbite.test.yml").read_text()
    (tmp_path / "tailbite.test.yml").write_text(tests)
    rules = RULES.read_text()
    (tmp_path / "tailbite.rules.yml").write_text(rules)
    assert promtool(peer, tmp_path).returncode == 0
    names = re.findall(r"alert: (\w+)\n", rules)
    assert len(names) == 9
    for expression in ("vector(1) > 2", "vector(1)"):
        (tmp_path / "tailbite.rules.yml").write_text(re.sub(r"expr: .*\n", f"expr: {expression}\n", rules))
        done = promtool(peer, tmp_path)
        assert done.returncode == 1
        for name in names:
            assert f"alertname: {name}" in done.stdout + done.stderr, f"{name} as {expression}"


def test_each_alert_links_a_page_of_ours() -> None:
    links = re.findall(r'runbook_url: "(.*)"', RULES.read_text())
    assert len(links) == 9
    for link in links:
        assert (ROOT / link.partition("/blob/main/")[2]).is_file(), link

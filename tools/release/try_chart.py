"""``make try-chart``: the Helm chart installed, upgraded, rolled back and removed on a real Kubernetes API server.

The server's schemas and its DaemonSet controller judge: a node that is not ready and one that is reserved get a pod
as well, and an unknown field is refused. There is no kubelet, so no pod runs; ``make try-image`` runs the image.
Helm applies on its own side: a custom resource that it sends for the server to apply ends Kubernetes 1.20.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from release.api_server import api_server
from release.project import ROOT

CHART = ROOT / "deploy/helm/tailbite"
NODES: dict[str, tuple[dict[str, str], ...]] = {
    "ready": (),
    "not-ready": ({"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},),
    "reserved": ({"key": "dedicated", "value": "gpu", "effect": "NoSchedule"},),
}
POD_MONITORS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "podmonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "names": {"kind": "PodMonitor", "plural": "podmonitors", "singular": "podmonitor"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
WAIT_S = 120.0


class Cluster:
    """The commands of an administrator, and what was not as expected.

    Args:
        tools: where helm and kubectl are.
        config: the configuration of both.
    """

    def __init__(self, tools: Path, config: Path) -> None:
        self.faults: list[str] = []
        self._tools = tools
        self._environment = {**os.environ, "KUBECONFIG": str(config), "HOME": str(config.parent)}

    def call(self, *command: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run helm or kubectl."""
        program = self._tools / command[0] / command[0]
        return subprocess.run(
            [str(program), *command[1:]],
            check=False, input=given, text=True, stdout=-1, stderr=subprocess.STDOUT, env=self._environment,
            timeout=300,
        )  # fmt: skip

    def ok(self, *command: str, part: str = "", given: str | None = None, status: int = 0) -> str:
        """Run a command that must end with a status and print a part."""
        done = self.call(*command, given=given)
        is_fine = (done.returncode == 0) == (status == 0) and part in done.stdout
        print(f"  {'ok   ' if is_fine else 'WRONG'} {' '.join(command)}{f': {part}' if part else ''}", flush=True)
        if not is_fine:
            self.faults.append(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}")
        return done.stdout

    def wait_for_pods(self, expected: set[str]) -> None:
        """Wait until each of these nodes, and no other, has a pod of the chart."""
        end = time.monotonic() + WAIT_S
        while (nodes := self._nodes_with_pods()) != expected and time.monotonic() < end:
            time.sleep(1)
        print(
            f"  {'ok   ' if nodes == expected else 'WRONG'} nodes with a pod: {', '.join(sorted(nodes))}", flush=True
        )
        if nodes != expected:
            self.faults.append(f"nodes with a pod: {sorted(nodes)} instead of {sorted(expected)}")

    def _nodes_with_pods(self) -> set[str]:
        listed = self.call("kubectl", "get", "pods", "--namespace", "monitoring", "--output", "json")
        if listed.returncode:
            return set()
        return {_node_of(pod) for pod in json.loads(listed.stdout)["items"]}


def _node_of(pod: dict[str, Any]) -> str:
    """Return the node that the DaemonSet controller made the pod for; the scheduler would put it there."""
    (term,) = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    name: str = term["matchFields"][0]["values"][0]
    return name


def try_chart(cluster: Cluster) -> None:
    """Install, upgrade with the values of each file in ci/, roll back, remove."""
    place = ("--namespace", "monitoring")
    change = (*place, "--server-side=false")
    cluster.ok("helm", "install", "tailbite", str(CHART), *change, "--create-namespace", part="STATUS: deployed")
    cluster.ok("kubectl", "get", "daemonset,serviceaccount", *place, part="daemonset.apps/tailbite")
    cluster.wait_for_pods(set(NODES))
    cluster.ok("kubectl", "create", "--filename", "-", given=json.dumps(POD_MONITORS))
    cluster.ok("kubectl", "wait", "--for=condition=Established", "crd/podmonitors.monitoring.coreos.com")
    for values in sorted((CHART / "ci").glob("*-values.yaml")):
        cluster.ok(
            "helm", "upgrade", "tailbite", str(CHART), *change, "--values", str(values), part="STATUS: deployed"
        )
    cluster.ok("helm", "rollback", "tailbite", "1", *change, part="Rollback was a success")
    cluster.wait_for_pods(set(NODES))
    cluster.ok("helm", "upgrade", "tailbite", str(CHART), *change, "--set", "tolerations=null", part="deployed")
    cluster.wait_for_pods(set())  # the control: the server taints nodes whose kubelet has not reported yet
    cluster.ok("helm", "uninstall", "tailbite", *place, part="uninstalled")
    cluster.ok("kubectl", "get", "daemonset,podmonitor,networkpolicy", *place, part="No resources found")
    cluster.wait_for_pods(set())


def try_schema(cluster: Cluster) -> None:
    """The server takes the remedy for pods, and refuses a field that it does not know."""
    command = [sys.executable, "-m", "tailbite", "fix", "--reserve", "32246,33060-33062", "--as", "pod"]
    patch = yaml.safe_load(subprocess.run(command, check=True, text=True, stdout=-1).stdout)
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "app"},
        "spec": {"containers": [{"name": "app", "image": "app"}], **patch["spec"]},
    }
    dry = ("kubectl", "create", "--dry-run=server", "--filename", "-")
    cluster.ok(*dry, given=json.dumps(pod), part="pod/app created (server dry run)")
    pod["spec"]["securityContext"]["sysctl"] = []
    cluster.ok(*dry, given=json.dumps(pod), part="unknown field", status=1)


def main() -> None:
    """Start the server, try the chart, and exit with status 1 if anything was not as expected."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--programs", type=Path, default=ROOT / ".peers/kubernetes", help="of build_apiserver.sh")
    options.add_argument("--etcd", type=Path, default=Path("/usr/bin/etcd"))
    options.add_argument("--tools", type=Path, default=ROOT / ".peers/helm/layer", help="where helm and kubectl are")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="tailbite-chart-") as name:
        folder = Path(name)
        with api_server(given.programs, given.etcd, folder) as admin:
            cluster = Cluster(given.tools, admin.config)
            for node, taints in NODES.items():
                admin.add_node(node, *taints)
            print("chart", flush=True)
            try_chart(cluster)
            print("schemas of the server", flush=True)
            try_schema(cluster)
    for fault in cluster.faults:
        print(fault, file=sys.stderr)
    sys.exit(bool(cluster.faults))


if __name__ == "__main__":
    main()

"""A Kubernetes API server with its store and its controllers, in the network namespace of this process."""

from __future__ import annotations

import contextlib
import json
import secrets
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from release.project import run

if TYPE_CHECKING:
    from collections.abc import Iterator

URL = "https://127.0.0.1:6443"
_START_S = 300.0
_CONTROLLERS = "daemonset,namespace,serviceaccount,serviceaccount-token,garbagecollector"


class Administrator:
    """Requests to the server, as its administrator.

    Args:
        folder: where the server's certificate and the configuration of kubectl are.

    Attributes:
        token: what the server knows the administrator by.
        config: the configuration of kubectl, helm and the controllers.
    """

    def __init__(self, folder: Path) -> None:
        self.token = secrets.token_hex(16)
        self.config = folder / "kubeconfig"
        self._certificate = folder / "certificates/apiserver.crt"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "here", "cluster": {"server": URL, "certificate-authority": str(self._certificate)}}
            ],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "admin"}}],
            "current-context": "here",
        }
        self.config.write_text(json.dumps(content))

    def ask(self, path: str, document: dict[str, Any] | None = None) -> None:
        """Get a path, or post a document to it.

        Raises:
            OSError: the server does not answer, or with an error.
        """
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        body = json.dumps(document).encode() if document is not None else None
        context = ssl.create_default_context(cafile=str(self._certificate))
        request = urllib.request.Request(f"{URL}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=30, context=context):
            pass

    def wait_for(self, path: str) -> None:
        """Wait until the server answers a path."""
        end = time.monotonic() + _START_S
        while True:
            try:
                return self.ask(path)
            except OSError as error:
                if time.monotonic() > end:
                    sys.exit(f"{path}: {error}")
            time.sleep(0.5)

    def add_node(self, name: str, *taints: dict[str, str]) -> None:
        """Add a node that no kubelet stands behind: its pods are assigned, and do not run."""
        labels = {"kubernetes.io/os": "linux", "kubernetes.io/hostname": name}
        node = {"metadata": {"name": name, "labels": labels}, "spec": {"taints": list(taints)}}
        self.ask("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", **node})


@contextlib.contextmanager
def api_server(programs: Path, etcd: Path, folder: Path) -> Iterator[Administrator]:
    """Run etcd, kube-apiserver and kube-controller-manager until the end of the block.

    Args:
        programs: where kube-apiserver and kube-controller-manager are; see build_apiserver.sh.
        etcd: Debian's etcd (package etcd-server).
        folder: where they write.
    """
    key = folder / "key.pem"
    run("openssl", "genrsa", "-out", key, "2048")
    admin = Administrator(folder)
    (folder / "tokens.csv").write_text(f"{admin.token},admin,1,system:masters\n")
    with contextlib.ExitStack() as stack:
        start(stack, folder, str(etcd), f"--data-dir={folder}/etcd")
        start(
            stack, folder, str(programs / "kube-apiserver"),
            "--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443", "--bind-address=127.0.0.1",
            f"--cert-dir={folder}/certificates", "--authorization-mode=AlwaysAllow", "--allow-privileged=true",
            f"--token-auth-file={folder}/tokens.csv", "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}", "--advertise-address=127.0.0.1",
        )  # fmt: skip
        admin.wait_for("/readyz")
        start(
            stack, folder, str(programs / "kube-controller-manager"),
            f"--kubeconfig={admin.config}", f"--controllers={_CONTROLLERS}",
            f"--service-account-private-key-file={key}", "--leader-elect=false", "--port=0", "--secure-port=0",
        )  # fmt: skip
        admin.wait_for("/api/v1/namespaces/default/serviceaccounts/default")
        yield admin


def start(stack: contextlib.ExitStack, folder: Path, *command: str) -> None:
    """Start a server that ends with the stack; its log is in the folder."""
    log = stack.enter_context((folder / f"{Path(command[0]).name}.log").open("wb"))
    process = subprocess.Popen(command, stdout=log, stderr=log)
    stack.callback(process.wait, 60)
    stack.callback(process.terminate)

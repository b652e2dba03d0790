"""The cluster itself: what every other test here takes for granted."""

import kube
import pytest

# A pod that Pod Security `restricted` admits, on a node of its own, answering for its name on port 8000.
POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: pair}}}}
spec:
  hostname: {name}
  subdomain: pair
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  securityContext:
    {{runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532, seccompProfile: {{type: RuntimeDefault}}}}
  affinity:
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - {{topologyKey: kubernetes.io/hostname, labelSelector: {{matchLabels: {{app: pair}}}}}}
  containers:
  - name: main
    image: trainwright/worker:dev
    imagePullPolicy: Never
    command: [sh, -ec, 'cd /checkpoints; touch written-by-{name}; exec python -m http.server 8000']
    readinessProbe: {{httpGet: {{port: 8000, path: /}}, periodSeconds: 1}}
    resources: {{limits: {{nvidia.com/gpu: "1", memory: 512Mi}}}}
    securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
    volumeMounts: [{{name: checkpoints, mountPath: /checkpoints}}, {{name: tmp, mountPath: /tmp}}]
  volumes:
  - {{name: tmp, emptyDir: {{}}}}
  - {{name: checkpoints, persistentVolumeClaim: {{claimName: checkpoints}}}}
"""

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: pair}
spec: {clusterIP: None, selector: {app: pair}, publishNotReadyAddresses: true}
"""


@pytest.fixture
def pair(namespace):
    kube.apply(SERVICE, namespace)
    for name in ("left", "right"):
        kube.apply(POD.format(name=name), namespace)
    kube.kubectl("wait", "-n", namespace, "pod", "-l=app=pair", "--for=condition=Ready", "--timeout=60s")
    return namespace


def test_pods_on_two_nodes_reach_each_other_by_name_and_share_storage(pair):
    pods = kube.kubectl_json("get", "pods", "-n", pair)["items"]
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2

    fetch = "import urllib.request as r; print(r.urlopen('http://{}.pair:8000/', timeout=5).read().decode())"
    for here, there in (("left", "right"), ("right", "left")):

        def listing(here=here, there=there):
            return kube.kubectl("exec", "-n", pair, here, "--", "python", "-c", fetch.format(there))

        # A headless service's records lag behind its pods.
        seen = kube.wait_until(listing, timeout=30, describe=lambda: "no listing")
        assert "written-by-left" in seen
        assert "written-by-right" in seen


def test_a_privileged_pod_is_refused(namespace):
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root"},
        "spec": {"containers": [{"name": "main", "image": "none", "securityContext": {"privileged": True}}]},
    }
    with pytest.raises(kube.CommandError, match="violates PodSecurity"):
        kube.apply(pod, namespace)


def test_two_gpus_per_worker_node(cluster):
    nodes = kube.kubectl_json("get", "nodes", "-l", "!node-role.kubernetes.io/control-plane")["items"]
    assert [node["status"]["allocatable"]["nvidia.com/gpu"] for node in nodes] == ["2", "2"]

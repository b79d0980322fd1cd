"""A Ray cluster of nodes on this machine for tests, in a process of its own: `python -m tests.support.ray_nodes`.

Prints the address of the head, which has no core for workers, and obeys lines on its input: `add` a node of one core,
`remove` the oldest node as a crash would. It answers each with the number of nodes, and ends with its input.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
os.environ |= {"RAY_health_check_failure_threshold": "2", "RAY_health_check_period_ms": "500"}
os.environ |= {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}


def main() -> None:
    """Obey until the input ends."""
    from ray.cluster_utils import Cluster

    own: dict[str, Any] = {
        "node_ip_address": "127.0.0.1",
        "object_store_memory": 80 * 2**20,
        "include_dashboard": False,
    }
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **own})
    nodes = [cluster.add_node(num_cpus=1, **own) for _ in range(2)]
    print(cluster.address, flush=True)  # noqa: T201
    for line in sys.stdin:
        if line.strip() == "add":
            nodes.append(cluster.add_node(num_cpus=1, wait=True, **own))
        else:
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
        print(len(nodes), flush=True)  # noqa: T201
    cluster.shutdown()


if __name__ == "__main__":
    main()

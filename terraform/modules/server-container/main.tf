# The containers of a group of weft servers on ECS, computed without a provider: this module creates nothing, and so it is tested
# whole without an account. The server module makes tasks of them.

locals {
  ports       = { api = 8501, agents = 8300, raft = 8301 }
  volume_path = "/var/lib/weft"
  # Whom the image runs as.
  user_id = 65532

  names = [for number in range(1, var.servers + 1) : "${var.name}-${number}"]

  containers = {
    for name in local.names : name => merge(
      {
        name      = "weft-server"
        image     = var.image
        essential = true
        command = concat(
          [
            "server",
            "--node", name,
            # A task that is replaced gets another address; the others learn it when they meet.
            "--bind", var.bind_address,
            "--data-dir", "${local.volume_path}/data",
            "--bootstrap-expect", tostring(var.servers),
            "--datacenter", var.datacenter,
            "--https-port", tostring(local.ports.api),
          ],
          var.trust_domain == null ? [] : ["--trust-domain", var.trust_domain],
          flatten([for other in local.names : ["--retry-join", "${other}.${var.dns_namespace}:${local.ports.raft}"] if other != name]),
          flatten([for api_name in concat(["${name}.${var.dns_namespace}"], var.api_names) : ["--api-name", api_name]]),
        )
        # ECS gives secrets as variables only.
        secrets                = [{ name = "WEFT_CLUSTER_KEY", valueFrom = var.cluster_key_arn }]
        user                   = "${local.user_id}:${local.user_id}"
        readonlyRootFilesystem = true
        linuxParameters        = { capabilities = { drop = ["ALL"] } }
        portMappings           = [for port in values(local.ports) : { containerPort = port, hostPort = port, protocol = "tcp" }]
        mountPoints            = [{ sourceVolume = var.volume_name, containerPath = local.volume_path, readOnly = false }]
        ulimits                = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
        # No healthCheck: all that ECS could do by one is end the server, and a group without a leader, or one that catches up, is no
        # reason to. A process that ends is begun again by its service.
        # A leader hands over before it ends.
        stopTimeout = 45
      },
      { for key, value in { logConfiguration = var.log_configuration } : key => value if value != null },
    )
  }
}

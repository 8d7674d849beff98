# The container of the agent beside a task's application, computed without a provider: this module creates nothing, and so it is
# tested whole without an account. Hand `container_definitions` to aws_ecs_task_definition.

locals {
  # All containers of a task share one network namespace. Only the mesh port is for others; the API and the admin listener are on
  # loopback.
  ports = { http = 8500, admin = 19000, mesh = 20000 }

  volume_path             = "/var/lib/weft"
  join_token_path         = "${local.volume_path}/join-token"
  service_definition_path = "${local.volume_path}/config/service.json"

  agent = merge(
    {
      name      = var.container_name
      image     = var.image
      essential = true
      command = concat(
        [
          "agent",
          "--node", var.node,
          "--platform", "ecs",
          "--bind", var.bind_address,
          "--http-port", tostring(local.ports.http),
          "--admin-port", tostring(local.ports.admin),
          "--mesh-port", tostring(local.ports.mesh),
          "--config", dirname(local.service_definition_path),
          "--data-dir", "${local.volume_path}/data",
          "--join-token-file", local.join_token_path,
        ],
        flatten([for server in var.servers : ["--server", server]]),
      )
      user                   = var.user
      readonlyRootFilesystem = true
      linuxParameters        = { capabilities = { drop = ["ALL"] } }
      portMappings           = [{ containerPort = local.ports.mesh, hostPort = local.ports.mesh, protocol = "tcp" }]
      mountPoints            = [{ sourceVolume = var.volume_name, containerPath = local.volume_path, readOnly = false }]
      ulimits                = var.ulimits
      dependsOn              = [for name in sort(var.preparing_containers) : { containerName = name, condition = "SUCCESS" }]
      # The agent drains for 25 seconds. ECS stops containers in the reverse of dependsOn, so the application ends first and its
      # last calls still go through.
      stopTimeout = 30
    },
    # Left out rather than null, which ECS would not take.
    { for key, value in { logConfiguration = var.log_configuration } : key => value if value != null },
  )

  others = [
    for container in var.container_definitions : merge(container, {
      for key, value in {
        # START, for a container without a shell has nothing yet that ECS could run as a health check. Until the agent is ready
        # the listeners of upstreams refuse connections, and never let one past the mesh.
        dependsOn = concat(
          try([for dependency in container.dependsOn : dependency if try(dependency.containerName, "") != var.container_name], []),
          [{ containerName = var.container_name, condition = "START" }],
        )
      } : key => value if !contains(var.preparing_containers, container.name)
    })
  ]

  service_definition = {
    service = {
      name      = var.service_name
      namespace = var.service_namespace
      port      = var.service_port
      connect = {
        sidecar_service = {
          proxy = {
            upstreams = [
              for upstream in var.upstreams : {
                destination_name      = upstream.destination_name
                destination_namespace = coalesce(upstream.destination_namespace, var.service_namespace)
                local_bind_port       = upstream.local_bind_port
              }
            ]
          }
        }
      }
    }
  }
}

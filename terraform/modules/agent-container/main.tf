# The container of the agent beside a task's application, computed without a provider: this module creates nothing, and so it is
# tested whole without an account. Hand `container_definitions` to aws_ecs_task_definition.

locals {
  # All containers of a task share one network namespace. Only the mesh port is for others; the API and the admin listener are on
  # loopback.
  ports = { http = 8500, admin = 19000, mesh = 20000 }

  volume_path = "/var/lib/weft"

  # What the agent is told, in the form of its configuration files. Nothing in it is a secret: the agent logs in with the task's
  # own role, and recognises the servers by their root.
  config = merge(
    {
      platform          = "ecs"
      bind              = var.bind_address
      servers           = var.servers
      auth_method       = var.auth_method
      root_fingerprints = var.root_fingerprints
      http_port         = local.ports.http
      admin_port        = local.ports.admin
      mesh_port         = local.ports.mesh
      service = {
        name      = var.service_name
        namespace = var.service_namespace
        port      = var.service_port
        tags      = var.service_tags
        meta      = var.service_meta
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
    },
    { for key, value in { data_dir = local.volume_path } : key => value if var.volume_name != null },
  )

  agent = merge(
    {
      name                   = var.container_name
      image                  = var.image
      essential              = true
      command                = ["agent"]
      environment            = [{ name = "WEFT_CONFIG", value = jsonencode(local.config) }]
      user                   = var.user
      readonlyRootFilesystem = true
      linuxParameters        = { capabilities = { drop = ["ALL"] } }
      portMappings           = [{ containerPort = local.ports.mesh, hostPort = local.ports.mesh, protocol = "tcp" }]
      mountPoints = [
        for name in compact([var.volume_name]) : { sourceVolume = name, containerPath = local.volume_path, readOnly = false }
      ]
      ulimits = var.ulimits
      # The agent drains for 25 seconds. ECS stops containers in the reverse of dependsOn, so the application ends first and its
      # last calls still go through.
      stopTimeout = 30
    },
    # Left out rather than null, which ECS would not take.
    { for key, value in { logConfiguration = var.log_configuration } : key => value if value != null },
  )

  others = [
    for container in var.container_definitions : merge(container, {
      # START, for a container without a shell has nothing yet that ECS could run as a health check. Until the agent is ready the
      # listeners of upstreams refuse connections, and never let one past the mesh.
      dependsOn = concat(
        try([for dependency in container.dependsOn : dependency if try(dependency.containerName, "") != var.container_name], []),
        [{ containerName = var.container_name, condition = "START" }],
      )
    })
  ]
}

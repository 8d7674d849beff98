# The container of the agent beside a task's application, computed without a provider: this module creates nothing, and so it is
# tested whole without an account. Hand `container_definitions` to aws_ecs_task_definition.

locals {
  # All containers of a task share one network namespace. Only the mesh port is for others; the rest is on loopback.
  ports = { http = 8500, dns = 8600, admin = 19000, mesh = 20000 }
  # As errors name them.
  ports_text = join(", ", [for port in [local.ports.http, local.ports.dns, local.ports.admin, local.ports.mesh] : tostring(port)])

  # The upstreams' listeners that have a port of their own.
  bound_ports = [for upstream in var.upstreams : upstream.local_bind_port if upstream.local_bind_port != null]

  volume_path = "/var/lib/weft"

  # What the agent is told, in the form of its configuration files. Nothing in it is a secret: the agent logs in with the task's
  # own role, and recognises the servers by their root.
  config = merge(
    var.settings,
    {
      platform          = "ecs"
      bind              = var.bind_address
      servers           = var.servers
      auth_method       = var.auth_method
      root_fingerprints = var.root_fingerprints
      http_port         = local.ports.http
      dns_port          = local.ports.dns
      admin_port        = local.ports.admin
      mesh_port         = local.ports.mesh
      service = merge(var.service_settings, {
        name      = var.service_name
        namespace = var.service_namespace
        port      = var.service_port
        tags      = var.service_tags
        meta      = var.service_meta
        connect = {
          sidecar_service = {
            proxy = {
              upstreams = [
                for upstream in var.upstreams : merge(
                  {
                    destination_name      = upstream.destination_name
                    destination_namespace = coalesce(upstream.destination_namespace, var.service_namespace)
                  },
                  { for key, value in { local_bind_port = upstream.local_bind_port } : key => value if value != null },
                )
              ]
            }
          }
        }
      })
    },
    # Left out rather than null, which no file of the agent's says.
    { for key, value in { data_dir = local.volume_path } : key => value if var.volume_name != null },
    { for key, value in { forward_port = var.forward_port } : key => value if value != null },
    { for key, value in { task_containers = var.task_containers } : key => value if length(value) > 0 },
  )

  agent = merge(
    {
      name      = var.container_name
      image     = var.image
      essential = true
      command   = ["agent"]
      environment = concat(
        [{ name = "WEFT_CONFIG", value = jsonencode(local.config) }],
        [for name, value in var.environment : { name = name, value = value }],
      )
      user                   = var.user
      readonlyRootFilesystem = true
      linuxParameters        = { capabilities = { drop = ["ALL"] } }
      portMappings           = [{ containerPort = local.ports.mesh, hostPort = local.ports.mesh, protocol = "tcp" }]
      mountPoints = [
        for name in compact([var.volume_name]) : { sourceVolume = name, containerPath = local.volume_path, readOnly = false }
      ]
      ulimits = var.ulimits
      # The image has no shell and needs none: this asks the agent beside it, and is done in two seconds. It asks whether the agent has
      # been ready once and answers, not whether it is ready now: ECS ends the whole task by this check, and a port that the application
      # took, or servers that are away, are no reason to.
      healthCheck = {
        command     = ["CMD", "weft", "exec", "--started", "--wait", "2s"]
        interval    = 5
        timeout     = 5
        retries     = 3
        startPeriod = 120
      }
      # The agent drains for 25 seconds. ECS stops containers in the reverse of dependsOn, so the application ends first and its
      # last calls still go through.
      stopTimeout = var.stop_timeout
    },
    # Left out rather than null, which ECS would not take.
    { for key, value in { logConfiguration = var.log_configuration } : key => value if value != null },
    { for key, value in { cpu = var.cpu, memory = var.memory } : key => value if value != null },
  )

  others = [
    for container in var.container_definitions : merge(container, {
      # Whoever starts finds its upstreams: the agent has an identity by then, and listens.
      dependsOn = concat(
        try([for dependency in container.dependsOn : dependency if try(dependency.containerName, "") != var.container_name], []),
        [{ containerName = var.container_name, condition = "HEALTHY" }],
      )
    })
  ]
}

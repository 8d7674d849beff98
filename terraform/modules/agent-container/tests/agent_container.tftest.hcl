# Plans only: the module creates nothing, so a plan is all there is, and it needs neither account nor network.

variables {
  image             = "registry.example/weft@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  servers           = ["weft-1.example:8300", "weft-2.example:8300", "[2001:db8::1]:8300"]
  root_fingerprints = ["00000000000000000000000000000000000000000000000000000000000000aa"]
  service_name      = "web"
  service_port      = 8080
  upstreams         = [{ destination_name = "api", local_bind_port = 9191 }]
  container_definitions = [
    {
      name      = "web"
      image     = "registry.example/web"
      essential = true
      dependsOn = [{ containerName = "migrate", condition = "SUCCESS" }, { containerName = "weft-agent", condition = "START" }]
    },
    {
      name         = "migrate"
      image        = "registry.example/migrate"
      essential    = false
      dependsOn    = null
      mountPoints  = null
      portMappings = [{ containerPort = 8080, hostPort = 8080, protocol = "tcp" }]
    },
  ]
}

run "the_agent_has_one_port_no_volume_no_secret_and_no_rights" {
  command = plan

  assert {
    condition     = output.agent_container.portMappings == [{ containerPort = 20000, hostPort = 20000, protocol = "tcp" }]
    error_message = "the mesh port is the only one: ${jsonencode(output.agent_container.portMappings)}"
  }
  assert {
    condition     = length(output.agent_container.mountPoints) == 0
    error_message = "nothing is mounted unless it is asked for: ${jsonencode(output.agent_container.mountPoints)}"
  }
  assert {
    condition     = output.agent_container.readonlyRootFilesystem && output.agent_container.user == "65532:65532" && output.agent_container.essential
    error_message = "read-only, not root, essential: ${jsonencode(output.agent_container)}"
  }
  assert {
    condition     = output.agent_container.linuxParameters.capabilities == { drop = ["ALL"] }
    error_message = "no capabilities: ${jsonencode(output.agent_container.linuxParameters)}"
  }
  assert {
    condition     = length(setintersection(keys(output.agent_container), ["secrets", "logConfiguration", "privileged", "memory", "cpu"])) == 0
    error_message = "no secret, and what nobody asked for is left out: ${jsonencode(keys(output.agent_container))}"
  }
  assert {
    condition     = output.agent_container.command == ["agent"] && jsonencode(output.agent_container.environment[*].name) == jsonencode(["WEFT_CONFIG"])
    error_message = "the variable says it all: ${jsonencode(output.agent_container)}"
  }
}

run "the_agent_is_told_servers_root_login_and_service_in_one_variable" {
  command = plan

  assert {
    condition = output.agent_container.environment[0].value == output.config && output.config == jsonencode({
      platform          = "ecs"
      bind              = "0.0.0.0"
      servers           = ["weft-1.example:8300", "weft-2.example:8300", "[2001:db8::1]:8300"]
      auth_method       = "aws"
      root_fingerprints = ["00000000000000000000000000000000000000000000000000000000000000aa"]
      http_port         = 8500
      dns_port          = 8600
      admin_port        = 19000
      mesh_port         = 20000
      service = {
        name      = "web"
        namespace = "default"
        port      = 8080
        tags      = []
        meta      = {}
        connect = { sidecar_service = { proxy = { upstreams = [
          { destination_name = "api", destination_namespace = "default", local_bind_port = 9191 },
        ] } } }
      }
    })
    error_message = output.config
  }
}

run "the_agent_comes_first_and_the_application_after_it" {
  command = plan

  assert {
    condition     = jsonencode(output.container_definitions[*].name) == jsonencode(["weft-agent", "web", "migrate"])
    error_message = "every container comes back, the agent first: ${jsonencode(output.container_definitions[*].name)}"
  }
  assert {
    condition = jsonencode(output.container_definitions[1].dependsOn) == jsonencode([
      { containerName = "migrate", condition = "SUCCESS" }, { containerName = "weft-agent", condition = "HEALTHY" },
    ])
    error_message = "other dependencies stay, and the one on the agent stands once: ${jsonencode(output.container_definitions[1].dependsOn)}"
  }
  assert {
    condition     = output.container_definitions[2].portMappings[0].containerPort == 8080 && output.container_definitions[2].image == "registry.example/migrate"
    error_message = "what else a container says is left alone: ${jsonencode(output.container_definitions[2])}"
  }
}

run "a_volume_that_is_asked_for_is_mounted_and_used" {
  command = plan

  variables {
    volume_name = "weft"
  }
  assert {
    condition     = output.agent_container.mountPoints == [{ sourceVolume = "weft", containerPath = "/var/lib/weft", readOnly = false }]
    error_message = jsonencode(output.agent_container.mountPoints)
  }
  assert {
    condition     = jsondecode(output.config).data_dir == "/var/lib/weft"
    error_message = output.config
  }
}

run "an_upstream_is_in_the_services_own_namespace_unless_it_says_another" {
  command = plan

  variables {
    service_namespace = "shop"
    upstreams = [
      { destination_name = "api", local_bind_port = 9191 },
      { destination_name = "cache", destination_namespace = "infra", local_bind_port = 9192 },
    ]
  }
  assert {
    condition     = jsondecode(output.config).service.connect.sidecar_service.proxy.upstreams[*].destination_namespace == ["shop", "infra"]
    error_message = output.config
  }
}

run "a_log_configuration_is_handed_on_as_it_is" {
  command = plan

  variables {
    log_configuration = { logDriver = "awslogs", options = { awslogs-group = "weft" } }
  }
  assert {
    condition     = jsonencode(output.agent_container.logConfiguration) == jsonencode(var.log_configuration)
    error_message = jsonencode(output.agent_container)
  }
}

run "what_else_the_agent_may_be_told_and_take_is_handed_on" {
  command = plan

  variables {
    settings         = { access_log = "-", drain_deadline = "60s" }
    service_settings = { checks = [{ name = "up", http = "http://127.0.0.1:8080/", interval = "5s" }] }
    environment      = { WEFT_LOG_FORMAT = "json" }
    memory           = 128
    cpu              = 64
    stop_timeout     = 70
  }
  assert {
    condition     = jsondecode(output.config).access_log == "-" && jsonencode(jsondecode(output.config).servers) == jsonencode(var.servers)
    error_message = output.config
  }
  assert {
    condition     = jsondecode(output.config).service.checks[0].interval == "5s" && jsondecode(output.config).service.name == "web"
    error_message = output.config
  }
  assert {
    condition = jsonencode(output.agent_container.environment) == jsonencode([
      { name = "WEFT_CONFIG", value = output.config }, { name = "WEFT_LOG_FORMAT", value = "json" },
    ])
    error_message = jsonencode(output.agent_container.environment)
  }
  assert {
    condition     = jsonencode([output.agent_container.memory, output.agent_container.cpu, output.agent_container.stopTimeout]) == jsonencode([128, 64, 70])
    error_message = jsonencode(output.agent_container)
  }
}

run "a_task_that_only_calls_has_no_port" {
  command = plan

  variables {
    service_port = 0
  }
  assert {
    condition     = jsondecode(output.config).service.port == 0 && !output.is_called
    error_message = output.config
  }
}

run "a_task_that_is_called_says_so_and_as_whom" {
  command = plan

  assert {
    condition     = output.is_called && output.service == "default/web" && output.volume_name == null
    error_message = output.service
  }
}

run "applications_wait_for_an_agent_that_has_been_ready_and_tasks_do_not_end_by_what_it_lacks_later" {
  command = plan

  assert {
    condition     = jsonencode(output.agent_container.healthCheck.command) == jsonencode(["CMD", "weft", "exec", "--started", "--wait", "2s"])
    error_message = jsonencode(output.agent_container.healthCheck)
  }
  assert {
    # ECS takes nothing else.
    condition = alltrue([
      output.agent_container.healthCheck.interval >= 5, output.agent_container.healthCheck.interval <= 300,
      output.agent_container.healthCheck.timeout > 2, output.agent_container.healthCheck.timeout <= 60,
      output.agent_container.healthCheck.retries >= 1, output.agent_container.healthCheck.retries <= 10,
      output.agent_container.healthCheck.startPeriod >= 0, output.agent_container.healthCheck.startPeriod <= 300,
    ])
    error_message = jsonencode(output.agent_container.healthCheck)
  }
}

run "an_upstream_without_a_port_has_an_address_of_its_own" {
  command = plan

  variables {
    upstreams = [{ destination_name = "api" }, { destination_name = "cache", local_bind_port = 9192 }]
  }
  assert {
    condition = jsonencode(jsondecode(output.config).service.connect.sidecar_service.proxy.upstreams) == jsonencode([
      { destination_name = "api", destination_namespace = "default" },
      { destination_name = "cache", destination_namespace = "default", local_bind_port = 9192 },
    ])
    error_message = output.config
  }
}

run "a_forward_proxy_and_watched_containers_are_told_to_the_agent_where_they_are_asked_for" {
  command = plan

  variables {
    forward_port    = 15002
    task_containers = ["web"]
  }
  assert {
    condition     = jsondecode(output.config).forward_port == 15002 && jsonencode(jsondecode(output.config).task_containers) == jsonencode(["web"])
    error_message = output.config
  }
}

run "a_task_without_other_containers_is_planned" {
  command = plan

  variables {
    container_definitions = []
    bind_address          = "::"
  }
  assert {
    condition     = length(output.container_definitions) == 1
    error_message = jsonencode(output.container_definitions)
  }
}

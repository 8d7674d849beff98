# Plans only: the module creates nothing, so a plan is all there is, and it needs neither account nor network.

variables {
  image                = "registry.example/weft@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  node                 = "web-1"
  servers              = ["weft-1.example:8300", "weft-2.example:8300", "[2001:db8::1]:8300"]
  service_name         = "web"
  service_port         = 8080
  upstreams            = [{ destination_name = "api", local_bind_port = 9191 }]
  preparing_containers = ["prepare"]
  container_definitions = [
    {
      name        = "prepare"
      image       = "registry.example/busybox"
      essential   = false
      mountPoints = [{ sourceVolume = "weft", containerPath = "/var/lib/weft", readOnly = false }]
    },
    {
      name      = "web"
      image     = "registry.example/web"
      essential = true
      dependsOn = [{ containerName = "migrate", condition = "SUCCESS" }, { containerName = "weft-agent", condition = "HEALTHY" }]
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

run "the_agent_has_one_port_one_volume_and_no_rights" {
  command = plan

  assert {
    condition     = output.agent_container.portMappings == [{ containerPort = 20000, hostPort = 20000, protocol = "tcp" }]
    error_message = "the mesh port is the only one: ${jsonencode(output.agent_container.portMappings)}"
  }
  assert {
    condition     = output.agent_container.mountPoints == [{ sourceVolume = "weft", containerPath = "/var/lib/weft", readOnly = false }]
    error_message = "the task volume is all that is mounted: ${jsonencode(output.agent_container.mountPoints)}"
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
    condition     = length(setintersection(keys(output.agent_container), ["environment", "secrets", "logConfiguration", "privileged"])) == 0
    error_message = "no secret is in the environment, and what nobody asked for is left out: ${jsonencode(keys(output.agent_container))}"
  }
}

run "the_command_names_node_files_and_servers" {
  command = plan

  assert {
    condition = join(" ", output.agent_container.command) == join(" ", [
      "agent --node web-1 --platform ecs --bind 0.0.0.0 --http-port 8500 --admin-port 19000 --mesh-port 20000",
      "--config /var/lib/weft/config --data-dir /var/lib/weft/data --join-token-file /var/lib/weft/join-token",
      "--server weft-1.example:8300 --server weft-2.example:8300 --server [2001:db8::1]:8300",
    ])
    error_message = join(" ", output.agent_container.command)
  }
  assert {
    condition     = output.service_definition_path == "/var/lib/weft/config/service.json" && output.join_token_path == "/var/lib/weft/join-token"
    error_message = "what the command reads and what the outputs promise must be the same files."
  }
}

run "preparing_containers_come_first_then_the_agent_then_the_application" {
  command = plan

  assert {
    condition     = output.agent_container.dependsOn == [{ containerName = "prepare", condition = "SUCCESS" }]
    error_message = jsonencode(output.agent_container.dependsOn)
  }
  assert {
    condition     = jsonencode(output.container_definitions[*].name) == jsonencode(["weft-agent", "prepare", "web", "migrate"])
    error_message = "every container comes back, the agent first: ${jsonencode(output.container_definitions[*].name)}"
  }
  assert {
    condition     = jsonencode(output.container_definitions[1]) == jsonencode(var.container_definitions[0])
    error_message = "what the agent waits for must not wait for the agent: ${jsonencode(output.container_definitions[1])}"
  }
  assert {
    condition = jsonencode(output.container_definitions[2].dependsOn) == jsonencode([
      { containerName = "migrate", condition = "SUCCESS" }, { containerName = "weft-agent", condition = "START" },
    ])
    error_message = "other dependencies stay, and the one on the agent stands once: ${jsonencode(output.container_definitions[2].dependsOn)}"
  }
  assert {
    condition     = output.container_definitions[3].portMappings[0].containerPort == 8080 && output.container_definitions[3].image == "registry.example/migrate"
    error_message = "what else a container says is left alone: ${jsonencode(output.container_definitions[3])}"
  }
}

run "the_service_definition_is_in_consuls_format" {
  command = plan

  assert {
    condition = output.service_definition == jsonencode({
      service = {
        name      = "web"
        namespace = "default"
        port      = 8080
        connect = { sidecar_service = { proxy = { upstreams = [
          { destination_name = "api", destination_namespace = "default", local_bind_port = 9191 },
        ] } } }
      }
    })
    error_message = output.service_definition
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
    condition     = jsondecode(output.service_definition).service.connect.sidecar_service.proxy.upstreams[*].destination_namespace == ["shop", "infra"]
    error_message = output.service_definition
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

run "a_task_that_only_calls_has_no_port" {
  command = plan

  variables {
    service_port  = 0
    outbound_only = true
  }
  assert {
    condition     = jsondecode(output.service_definition).service.port == 0
    error_message = output.service_definition
  }
}

run "a_task_without_other_containers_is_planned" {
  command = plan

  variables {
    container_definitions = []
    preparing_containers  = []
    bind_address          = "::"
  }
  assert {
    condition     = length(output.container_definitions) == 1 && length(output.agent_container.dependsOn) == 0
    error_message = jsonencode(output.container_definitions)
  }
}

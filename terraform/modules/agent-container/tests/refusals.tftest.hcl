# What would start a broken or an open task is refused when it is planned, by the name of the variable.

variables {
  image                 = "registry.example/weft:0.1.0"
  root_fingerprints     = ["0000000000000000000000000000000000000000000000000000000000000000"]
  servers               = ["weft.example:8300"]
  service_name          = "web"
  service_port          = 8080
  container_definitions = [{ name = "web", image = "registry.example/web" }]
}

run "an_empty_image" {
  command = plan

  variables {
    image = ""
  }
  expect_failures = [var.image]
}

run "an_image_with_a_space" {
  command = plan

  variables {
    image = "registry.example/weft --privileged"
  }
  expect_failures = [var.image]
}

run "a_container_name_with_a_dot" {
  command = plan

  variables {
    container_name = "weft.agent"
  }
  expect_failures = [var.container_name]
}

run "no_root_to_recognise_the_servers_by" {
  command = plan

  variables {
    root_fingerprints = []
  }
  expect_failures = [var.root_fingerprints]
}

run "a_root_that_is_no_fingerprint" {
  command = plan

  variables {
    root_fingerprints = ["sha256:00"]
  }
  expect_failures = [var.root_fingerprints]
}

run "an_auth_method_with_a_space" {
  command = plan

  variables {
    auth_method = "aws iam"
  }
  expect_failures = [var.auth_method]
}

run "no_servers" {
  command = plan

  variables {
    servers = []
  }
  expect_failures = [var.servers]
}

run "a_server_without_a_port" {
  command = plan

  variables {
    servers = ["weft.example"]
  }
  expect_failures = [var.servers]
}

run "a_server_at_port_0" {
  command = plan

  variables {
    servers = ["weft.example:0"]
  }
  expect_failures = [var.servers]
}

run "a_server_past_the_last_port" {
  command = plan

  variables {
    servers = ["weft.example:8300", "weft.example:65536"]
  }
  expect_failures = [var.servers]
}

run "a_server_that_is_a_url" {
  command = plan

  variables {
    servers = ["https://weft.example:8300"]
  }
  expect_failures = [var.servers]
}

run "a_service_name_in_upper_case" {
  command = plan

  variables {
    service_name = "Web"
  }
  expect_failures = [var.service_name]
}

run "a_service_name_that_ends_in_a_hyphen" {
  command = plan

  variables {
    service_name = "web-"
  }
  expect_failures = [var.service_name]
}

run "a_service_name_of_64" {
  command = plan

  variables {
    service_name = join("", [for i in range(64) : "a"])
  }
  expect_failures = [var.service_name]
}

run "an_empty_service_name" {
  command = plan

  variables {
    service_name = ""
  }
  expect_failures = [var.service_name]
}

run "a_service_name_of_two_lines" {
  command = plan

  variables {
    service_name = "web\napi"
  }
  expect_failures = [var.service_name]
}

run "a_namespace_with_an_underscore" {
  command = plan

  variables {
    service_namespace = "my_shop"
  }
  expect_failures = [var.service_namespace]
}

run "a_port_past_the_last" {
  command = plan

  variables {
    service_port = 65536
  }
  expect_failures = [var.service_port]
}

run "half_a_port" {
  command = plan

  variables {
    service_port = 80.5
  }
  expect_failures = [var.service_port]
}

run "a_port_below_the_first" {
  command = plan

  variables {
    service_port = -1
  }
  expect_failures = [var.service_port]
}

run "a_service_on_the_agents_dns_port" {
  command = plan

  variables {
    service_port = 8600
  }
  expect_failures = [var.service_port]
}

run "a_service_on_the_mesh_port" {
  command = plan

  variables {
    service_port = 20000
  }
  expect_failures = [var.service_port]
}

run "an_upstream_that_is_a_wildcard" {
  command = plan

  variables {
    upstreams = [{ destination_name = "*", local_bind_port = 9191 }]
  }
  expect_failures = [var.upstreams]
}

run "an_upstream_without_a_listener" {
  command = plan

  variables {
    upstreams = [{ destination_name = "api", local_bind_port = 0 }]
  }
  expect_failures = [var.upstreams]
}

run "two_upstreams_on_one_port" {
  command = plan

  variables {
    upstreams = [{ destination_name = "api", local_bind_port = 9191 }, { destination_name = "db", local_bind_port = 9191 }]
  }
  expect_failures = [var.upstreams]
}

run "an_upstream_on_the_services_port" {
  command = plan

  variables {
    upstreams = [{ destination_name = "api", local_bind_port = 8080 }]
  }
  expect_failures = [var.upstreams]
}

run "an_upstream_on_the_agents_api" {
  command = plan

  variables {
    upstreams = [{ destination_name = "api", local_bind_port = 8500 }]
  }
  expect_failures = [var.upstreams]
}

run "an_upstream_on_the_agents_dns_port" {
  command = plan

  variables {
    upstreams = [{ destination_name = "api", local_bind_port = 8600 }]
  }
  expect_failures = [var.upstreams]
}

run "a_forward_proxy_on_an_upstreams_port" {
  command = plan

  variables {
    upstreams    = [{ destination_name = "api", local_bind_port = 9191 }]
    forward_port = 9191
  }
  expect_failures = [var.forward_port]
}

run "a_forward_proxy_without_a_port" {
  command = plan

  variables {
    forward_port = 0
  }
  expect_failures = [var.forward_port]
}

run "a_watched_container_that_is_not_in_the_task" {
  command = plan

  variables {
    task_containers = ["worker"]
  }
  expect_failures = [var.task_containers]
}

run "a_container_without_a_name" {
  command = plan

  variables {
    container_definitions = [{ image = "registry.example/web" }]
  }
  expect_failures = [var.container_definitions]
}

run "a_container_whose_name_ecs_refuses" {
  command = plan

  variables {
    container_definitions = [{ name = "web.app", image = "registry.example/web" }]
  }
  expect_failures = [var.container_definitions]
}

run "containers_that_are_no_list" {
  command = plan

  variables {
    container_definitions = "web"
  }
  expect_failures = [var.container_definitions]
}

run "a_container_named_as_the_agent" {
  command = plan

  variables {
    container_definitions = [{ name = "weft-agent", image = "registry.example/web" }]
  }
  expect_failures = [var.container_definitions]
}

run "two_containers_of_one_name" {
  command = plan

  variables {
    container_definitions = [{ name = "web", image = "a" }, { name = "web", image = "b" }]
  }
  expect_failures = [var.container_definitions]
}

run "an_application_that_mounts_the_agents_keys" {
  command = plan

  variables {
    volume_name           = "weft"
    container_definitions = [{ name = "web", mountPoints = [{ sourceVolume = "weft", containerPath = "/data" }] }]
  }
  expect_failures = [var.container_definitions]
}

run "an_application_that_takes_the_agents_volumes" {
  command = plan

  variables {
    container_definitions = [{ name = "web", volumesFrom = [{ sourceContainer = "weft-agent" }] }]
  }
  expect_failures = [var.container_definitions]
}

run "an_application_that_maps_the_admin_port" {
  command = plan

  variables {
    container_definitions = [{ name = "web", portMappings = [{ containerPort = 19000 }] }]
  }
  expect_failures = [var.container_definitions]
}

run "an_application_that_maps_the_dns_port" {
  command = plan

  variables {
    container_definitions = [{ name = "web", portMappings = [{ containerPort = 8600 }] }]
  }
  expect_failures = [var.container_definitions]
}

run "a_volume_name_with_a_slash" {
  command = plan

  variables {
    volume_name = "a/b"
  }
  expect_failures = [var.volume_name]
}

run "an_agent_that_is_root" {
  command = plan

  variables {
    user = "0:0"
  }
  expect_failures = [var.user]
}

run "a_user_by_name" {
  command = plan

  variables {
    user = "weft"
  }
  expect_failures = [var.user]
}

run "a_bind_address_that_a_task_cannot_know" {
  command = plan

  variables {
    bind_address = "10.0.0.1"
  }
  expect_failures = [var.bind_address]
}

run "a_log_configuration_without_a_driver" {
  command = plan

  variables {
    log_configuration = { options = {} }
  }
  expect_failures = [var.log_configuration]
}

run "memory_that_no_agent_lives_by" {
  command = plan

  variables {
    memory = 8
  }
  expect_failures = [var.memory]
}

run "half_a_unit_of_cpu" {
  command = plan

  variables {
    cpu = 0.5
  }
  expect_failures = [var.cpu]
}

run "a_stop_that_fargate_does_not_wait_for" {
  command = plan

  variables {
    stop_timeout = 300
  }
  expect_failures = [var.stop_timeout]
}

run "settings_that_say_what_a_variable_says" {
  command = plan

  variables {
    settings = { servers = ["elsewhere.example:8300"] }
  }
  expect_failures = [var.settings]
}

run "settings_that_are_no_object" {
  command = plan

  variables {
    settings = "access_log"
  }
  expect_failures = [var.settings]
}

run "a_service_that_is_named_twice" {
  command = plan

  variables {
    service_settings = { name = "api" }
  }
  expect_failures = [var.service_settings]
}

run "a_variable_that_the_module_writes" {
  command = plan

  variables {
    environment = { WEFT_CONFIG = "{}" }
  }
  expect_failures = [var.environment]
}

# Plans only: the module creates nothing.

variables {
  image           = "registry.example/weft@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  dns_namespace   = "mesh.internal"
  cluster_key_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:weft-cluster-key-AbCdEf"
}

run "three_servers_know_one_another_and_nobody_knows_the_key" {
  command = plan

  assert {
    condition     = jsonencode(output.names) == jsonencode(["weft-1", "weft-2", "weft-3"])
    error_message = jsonencode(output.names)
  }
  assert {
    condition = join(" ", output.containers["weft-2"].command) == join(" ", [
      "server --node weft-2 --bind 0.0.0.0 --data-dir /var/lib/weft/data --bootstrap-expect 3 --datacenter dc1 --https-port 8501",
      "--retry-join weft-1.mesh.internal:8301 --retry-join weft-3.mesh.internal:8301 --api-name weft-2.mesh.internal",
    ])
    error_message = join(" ", output.containers["weft-2"].command)
  }
  assert {
    condition     = jsonencode(output.containers["weft-1"].secrets) == jsonencode([{ name = "WEFT_CLUSTER_KEY", valueFrom = var.cluster_key_arn }])
    error_message = "the key comes from the secret alone: ${jsonencode(output.containers["weft-1"].secrets)}"
  }
  assert {
    condition     = output.containers["weft-3"].readonlyRootFilesystem && output.containers["weft-3"].user == "65532:65532"
    error_message = jsonencode(output.containers["weft-3"])
  }
  assert {
    condition     = jsonencode(output.agent_addresses) == jsonencode([for number in [1, 2, 3] : "weft-${number}.mesh.internal:8300"])
    error_message = jsonencode(output.agent_addresses)
  }
}

run "one_server_joins_nobody" {
  command = plan

  variables {
    servers      = 1
    trust_domain = "mesh.example"
  }
  assert {
    condition     = !contains(output.containers["weft-1"].command, "--retry-join") && contains(output.containers["weft-1"].command, "mesh.example")
    error_message = join(" ", output.containers["weft-1"].command)
  }
}

run "an_even_number_of_servers" {
  command = plan

  variables {
    servers = 4
  }
  expect_failures = [var.servers]
}

run "a_key_in_the_plan" {
  command = plan

  variables {
    cluster_key_arn = "weft-key-0000"
  }
  expect_failures = [var.cluster_key_arn]
}

run "a_parameter_that_the_role_could_not_read" {
  command = plan

  variables {
    cluster_key_arn = "arn:aws:ssm:eu-west-1:123456789012:parameter/weft-cluster-key"
  }
  expect_failures = [var.cluster_key_arn]
}

run "one_field_of_a_secret" {
  command = plan

  variables {
    cluster_key_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:weft-cluster-key-AbCdEf:key::"
  }
  expect_failures = [var.cluster_key_arn]
}

run "a_secret_without_the_end_of_its_arn" {
  command = plan

  variables {
    cluster_key_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:weft"
  }
  expect_failures = [var.cluster_key_arn]
}

run "an_image_with_a_space" {
  command = plan

  variables {
    image = "registry.example/weft --privileged"
  }
  expect_failures = [var.image]
}

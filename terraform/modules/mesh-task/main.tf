# An ECS task whose application is in the mesh: the task definition, its two roles, and the security group that admits other
# agents alone. What the containers look like is computed by agent-container, which needs no provider and is tested whole.

data "aws_partition" "current" {}

module "agent" {
  source = "../agent-container"

  image                 = var.image
  servers               = var.servers
  auth_method           = var.auth_method
  root_fingerprints     = var.root_fingerprints
  service_name          = var.service_name
  service_namespace     = var.service_namespace
  service_port          = var.service_port
  service_tags          = var.service_tags
  service_meta          = var.service_meta
  outbound_only         = var.outbound_only
  upstreams             = var.upstreams
  container_definitions = var.container_definitions
  log_configuration     = var.log_configuration
}

# The role is the task's identity in the mesh: an auth method binds its ARN to the service. It may do nothing in AWS by itself,
# for whoever the agent logs in with needs no permission to say who it is.
resource "aws_iam_role" "task" {
  name               = "${var.family}-task"
  path               = var.iam_role_path
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = var.tags
}

resource "aws_iam_role" "execution" {
  name               = "${var.family}-execution"
  path               = var.iam_role_path
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = var.tags
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy_attachment" "task" {
  for_each = toset(var.additional_task_role_policies)

  role       = aws_iam_role.task.name
  policy_arn = each.value
}

# Pulls the images and writes the log; ECS uses it before the containers run, and they cannot.
resource "aws_iam_role_policy_attachment" "execution" {
  for_each = toset(concat(
    ["arn:${data.aws_partition.current.partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"],
    var.additional_execution_role_policies,
  ))

  role       = aws_iam_role.execution.name
  policy_arn = each.value
}

resource "aws_ecs_task_definition" "this" {
  family                   = var.family
  network_mode             = "awsvpc"
  requires_compatibilities = var.requires_compatibilities
  cpu                      = var.cpu
  memory                   = var.memory
  task_role_arn            = aws_iam_role.task.arn
  execution_role_arn       = aws_iam_role.execution.arn
  container_definitions    = jsonencode(module.agent.container_definitions)
  tags                     = merge(var.tags, { "weft.dev/service" = "${var.service_namespace}/${var.service_name}" })

  dynamic "volume" {
    for_each = var.volumes

    content {
      name = volume.value
    }
  }
}

# Everything that reaches the task comes through its agent: the mesh port, from other members of the mesh. An application that
# listens on the task's address cannot be dialled past it.
resource "aws_security_group" "mesh" {
  name_prefix = "${var.family}-mesh-"
  description = "weft: the mesh port of ${var.family}"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "mesh" {
  for_each = var.outbound_only ? {} : var.mesh_sources

  security_group_id            = aws_security_group.mesh.id
  description                  = "mutual TLS from agents: ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = module.agent.mesh_port
  to_port                      = module.agent.mesh_port
  referenced_security_group_id = each.value.security_group_id
  cidr_ipv4                    = each.value.cidr_ipv4
  cidr_ipv6                    = each.value.cidr_ipv6
}

resource "aws_vpc_security_group_egress_rule" "all" {
  for_each = { ipv4 = "0.0.0.0/0", ipv6 = "::/0" }

  security_group_id = aws_security_group.mesh.id
  description       = "calls to other agents, servers and AWS: ${each.key}"
  ip_protocol       = "-1"
  cidr_ipv4         = each.key == "ipv4" ? each.value : null
  cidr_ipv6         = each.key == "ipv6" ? each.value : null
}

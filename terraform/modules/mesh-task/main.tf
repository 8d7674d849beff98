# An ECS task whose application is in the mesh: the task definition, its two roles, and the security group that admits other
# agents alone. The containers come from agent-container, which computes them without a provider and is tested whole.

data "aws_partition" "current" {}

data "aws_caller_identity" "current" {}

locals {
  # Without its namespace: what the binding rule `--bind-name '${entity_name}'` makes the service.
  role_name = coalesce(var.role_name, element(split("/", var.agent.service), 1))
}

# The role is the task's identity in the mesh: an auth method binds its ARN to the service. It may do nothing in AWS by itself,
# for whoever the agent logs in with needs no permission to say who it is.
resource "aws_iam_role" "task" {
  name               = local.role_name
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

    # ECS acts for many accounts, and whoever has the role is the service: it is for tasks of this account alone.
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
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
  container_definitions    = jsonencode(var.agent.container_definitions)
  tags                     = merge(var.tags, { "weft.dev/service" = var.agent.service })

  dynamic "volume" {
    for_each = concat(compact([var.agent.volume_name]), var.volumes)

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
  for_each = var.agent.is_called ? var.mesh_sources : {}

  security_group_id            = aws_security_group.mesh.id
  description                  = "mutual TLS from agents: ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = var.agent.mesh_port
  to_port                      = var.agent.mesh_port
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

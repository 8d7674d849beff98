# A group of weft servers on Fargate: one ECS service a server, for each has a name, a place in the group and a disk of its own.
#
# The disk is EFS and not EBS: what ECS attaches of EBS is made anew for every task, and a server whose disk was lost is refused
# under its old name. Every write of the log waits for EFS, a few milliseconds; that is what writes to the mesh cost here, and no
# call through it. Where that is too slow, run the servers on machines.
#
# The disks have no backup here: that is `weft snapshot save`. A copy of a disk that is written to is none, and a server that came back
# from an older one would have forgotten how it voted.

data "aws_partition" "current" {}

data "aws_caller_identity" "current" {}

locals {
  # One after the other, so that as many servers as there are subnets lie apart. ECS spreads the tasks of one service over zones, and
  # each of these has one task.
  subnet_of = { for name in var.group.names : name => var.subnet_ids[index(var.group.names, name) % length(var.subnet_ids)] }
}

resource "aws_service_discovery_private_dns_namespace" "this" {
  name = var.group.dns_namespace
  vpc  = var.vpc_id
  tags = var.tags
}

resource "aws_service_discovery_service" "server" {
  for_each = toset(var.group.names)

  name = each.key
  tags = var.tags

  dns_config {
    namespace_id = aws_service_discovery_private_dns_namespace.this.id

    dns_records {
      type = "A"
      ttl  = 5
    }
  }
}

resource "aws_efs_file_system" "data" {
  encrypted  = true
  kms_key_id = var.kms_key_arn
  tags       = merge(var.tags, { Name = var.group.name })

  lifecycle {
    # With it go the CA's keys and every agent's record.
    prevent_destroy = true
  }
}

resource "aws_efs_mount_target" "data" {
  for_each = toset(var.subnet_ids)

  file_system_id  = aws_efs_file_system.data.id
  subnet_id       = each.value
  security_groups = [aws_security_group.data.id]
}

resource "aws_efs_access_point" "data" {
  for_each = toset(var.group.names)

  file_system_id = aws_efs_file_system.data.id
  tags           = var.tags

  posix_user {
    uid = var.group.user_id
    gid = var.group.user_id
  }

  root_directory {
    path = "/${each.key}"

    creation_info {
      owner_uid   = var.group.user_id
      owner_gid   = var.group.user_id
      permissions = "0700"
    }
  }
}

# Nobody mounts it unencrypted, and each server its own folder only.
resource "aws_efs_file_system_policy" "data" {
  file_system_id = aws_efs_file_system.data.id
  policy         = data.aws_iam_policy_document.data.json
}

data "aws_iam_policy_document" "data" {
  statement {
    effect    = "Deny"
    actions   = ["*"]
    resources = [aws_efs_file_system.data.arn]

    principals {
      type        = "AWS"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  dynamic "statement" {
    for_each = aws_efs_access_point.data

    content {
      actions   = ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"]
      resources = [aws_efs_file_system.data.arn]

      principals {
        type        = "AWS"
        identifiers = [aws_iam_role.task[statement.key].arn]
      }

      condition {
        test     = "StringEquals"
        variable = "elasticfilesystem:AccessPointArn"
        values   = [statement.value.arn]
      }
    }
  }
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }

    # ECS acts for many accounts; the roles are for tasks of this one.
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

# A server asks AWS for nothing: its role is there for its folder only.
resource "aws_iam_role" "task" {
  for_each = toset(var.group.names)

  name               = "${each.key}-task"
  path               = "/weft/"
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = var.tags
}

resource "aws_iam_role" "execution" {
  name               = "${var.group.name}-servers-execution"
  path               = "/weft/"
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = var.tags
}

resource "aws_iam_role_policy_attachment" "execution" {
  role       = aws_iam_role.execution.name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

resource "aws_iam_role_policy" "cluster_key" {
  name   = "cluster-key"
  role   = aws_iam_role.execution.id
  policy = data.aws_iam_policy_document.cluster_key.json
}

data "aws_iam_policy_document" "cluster_key" {
  statement {
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [var.group.cluster_key_arn]
  }

  dynamic "statement" {
    for_each = compact([var.cluster_key_kms_key_arn])

    content {
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

resource "aws_ecs_task_definition" "server" {
  for_each = toset(var.group.names)

  family                   = each.key
  network_mode             = "awsvpc"
  requires_compatibilities = ["FARGATE"]
  cpu                      = var.cpu
  memory                   = var.memory
  task_role_arn            = aws_iam_role.task[each.key].arn
  execution_role_arn       = aws_iam_role.execution.arn
  container_definitions    = jsonencode([var.group.containers[each.key]])
  tags                     = var.tags

  # The earlier ones stay: by them run the servers whose turn has not come yet.
  skip_destroy = true

  volume {
    name = var.group.volume_name

    efs_volume_configuration {
      file_system_id     = aws_efs_file_system.data.id
      transit_encryption = "ENABLED"

      authorization_config {
        access_point_id = aws_efs_access_point.data[each.key].id
        iam             = "ENABLED"
      }
    }
  }
}

resource "aws_ecs_service" "server" {
  for_each = toset(var.group.names)

  name            = each.key
  cluster         = var.cluster_arn
  task_definition = aws_ecs_task_definition.server[each.key].arn
  desired_count   = 1
  launch_type     = "FARGATE"
  tags            = var.tags

  # Never two on one disk: the old one ends before the new one begins.
  deployment_minimum_healthy_percent = 0
  deployment_maximum_percent         = 100

  # Terraform changes all servers at once; whoever changes one after the other by -target, as docs/ecs.md has it, hears when one runs.
  wait_for_steady_state = true

  network_configuration {
    subnets         = [local.subnet_of[each.key]]
    security_groups = [aws_security_group.servers.id]
  }

  service_registries {
    registry_arn = aws_service_discovery_service.server[each.key].arn
  }

  # What a task needs to start, and to have for as long as it runs.
  depends_on = [
    aws_efs_mount_target.data,
    aws_efs_file_system_policy.data,
    aws_iam_role_policy.cluster_key,
    aws_iam_role_policy_attachment.execution,
  ]
}

resource "aws_security_group" "servers" {
  name_prefix = "${var.group.name}-servers-"
  description = "weft: the servers"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "data" {
  name_prefix = "${var.group.name}-data-"
  description = "weft: the servers' disks"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "raft" {
  security_group_id            = aws_security_group.servers.id
  description                  = "the servers among themselves"
  ip_protocol                  = "tcp"
  from_port                    = var.group.ports.raft
  to_port                      = var.group.ports.raft
  referenced_security_group_id = aws_security_group.servers.id
}

locals {
  clients = merge(
    { for name, source in var.agent_sources : "agents: ${name}" => merge(source, { port = var.group.ports.agents }) },
    { for name, source in var.api_sources : "the API over TLS: ${name}" => merge(source, { port = var.group.ports.api }) },
  )
}

resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each = local.clients

  security_group_id            = aws_security_group.servers.id
  description                  = each.key
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
  referenced_security_group_id = each.value.security_group_id
  cidr_ipv4                    = each.value.cidr_ipv4
  cidr_ipv6                    = each.value.cidr_ipv6
}

resource "aws_vpc_security_group_egress_rule" "servers" {
  for_each = { ipv4 = "0.0.0.0/0", ipv6 = "::/0" }

  security_group_id = aws_security_group.servers.id
  description       = "one another, their disks, and AWS: ${each.key}"
  ip_protocol       = "-1"
  cidr_ipv4         = each.key == "ipv4" ? each.value : null
  cidr_ipv6         = each.key == "ipv6" ? each.value : null
}

resource "aws_vpc_security_group_ingress_rule" "data" {
  security_group_id            = aws_security_group.data.id
  description                  = "NFS from the servers"
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
  referenced_security_group_id = aws_security_group.servers.id
}

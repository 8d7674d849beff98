# Two Fargate services: `shop-web` calls `shop-api`, and nobody else may.
#
# Before: servers, such as those of ../servers-on-fargate; `weft acl auth-method` and `weft acl binding-rule` as docs/ecs.md has
#         them, and `weft ca roots` for the fingerprint.
# After:  weft intention create --allow shop-web shop-api

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "vpc_id" { type = string }
variable "subnet_ids" { type = list(string) }
variable "cluster_arn" { type = string }
variable "image" { type = string }

variable "api_image" {
  description = "What listens on port 8080 of 127.0.0.1."
  type        = string
}

variable "web_image" {
  description = "What calls it, at 127.0.0.1:9191."
  type        = string
}

variable "root_fingerprints" { type = list(string) }

variable "servers" {
  description = "`agent_addresses` of ../servers-on-fargate."
  type        = list(string)
}

variable "execute_command" {
  description = "Whether `aws ecs execute-command` may run something in a container of `shop-web`, for whoever may call it."
  type        = bool
  default     = false
}

variable "log_group" {
  description = "The log group that is made for the containers: on Fargate there is no log without one."
  type        = string
  default     = "/weft/shop"
}

resource "aws_cloudwatch_log_group" "this" {
  name              = var.log_group
  retention_in_days = 30
}

locals {
  log = {
    logDriver = "awslogs"
    options = {
      awslogs-group = aws_cloudwatch_log_group.this.name
      # That of the cluster.
      awslogs-region        = element(split(":", var.cluster_arn), 3)
      awslogs-stream-prefix = "weft"
    }
  }
}

module "api_agent" {
  source = "../../modules/agent-container"

  image             = var.image
  servers           = var.servers
  root_fingerprints = var.root_fingerprints
  service_name      = "shop-api"
  service_port      = 8080
  log_configuration = local.log
  container_definitions = [
    { name = "api", image = var.api_image, essential = true, logConfiguration = local.log },
  ]
}

module "web_agent" {
  source = "../../modules/agent-container"

  image             = var.image
  servers           = var.servers
  root_fingerprints = var.root_fingerprints
  service_name      = "shop-web"
  service_port      = 0 # It calls others, and is never called.
  upstreams         = [{ destination_name = "shop-api", local_bind_port = 9191 }]
  log_configuration = local.log
  container_definitions = [
    { name = "web", image = var.web_image, essential = true, logConfiguration = local.log },
  ]
}

module "api" {
  source = "../../modules/mesh-task"

  agent        = module.api_agent
  family       = "shop-api"
  vpc_id       = var.vpc_id
  mesh_sources = { web = { security_group_id = module.web.security_group_id } }
}

module "web" {
  source = "../../modules/mesh-task"

  agent  = module.web_agent
  family = "shop-web"
  vpc_id = var.vpc_id
}

# What gets a shell into a container speaks for it by the task's role; these actions know no narrower resource.
data "aws_iam_policy_document" "execute_command" {
  statement {
    actions = [
      "ssmmessages:CreateControlChannel",
      "ssmmessages:CreateDataChannel",
      "ssmmessages:OpenControlChannel",
      "ssmmessages:OpenDataChannel",
    ]
    resources = ["*"]
  }
}

resource "aws_iam_role_policy" "execute_command" {
  count = var.execute_command ? 1 : 0

  name   = "execute-command"
  role   = module.web.task_role_id
  policy = data.aws_iam_policy_document.execute_command.json
}

resource "aws_ecs_service" "this" {
  for_each = {
    api = { task_definition = module.api.task_definition_arn, security_group = module.api.security_group_id, execute_command = false }
    web = { task_definition = module.web.task_definition_arn, security_group = module.web.security_group_id, execute_command = var.execute_command }
  }

  name                   = each.key
  cluster                = var.cluster_arn
  task_definition        = each.value.task_definition
  desired_count          = 2
  launch_type            = "FARGATE"
  enable_execute_command = each.value.execute_command

  network_configuration {
    subnets         = var.subnet_ids
    security_groups = [each.value.security_group]
  }
}

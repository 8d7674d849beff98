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
variable "root_fingerprints" { type = list(string) }

variable "servers" {
  description = "`agent_addresses` of ../servers-on-fargate."
  type        = list(string)
}

module "api_agent" {
  source = "../../modules/agent-container"

  image             = var.image
  servers           = var.servers
  root_fingerprints = var.root_fingerprints
  service_name      = "shop-api"
  service_port      = 8080
  container_definitions = [
    { name = "api", image = "registry.example/api@sha256:...", essential = true },
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
  container_definitions = [
    { name = "web", image = "registry.example/web@sha256:...", essential = true },
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

resource "aws_ecs_service" "this" {
  for_each = {
    api = { task_definition = module.api.task_definition_arn, security_group = module.api.security_group_id }
    web = { task_definition = module.web.task_definition_arn, security_group = module.web.security_group_id }
  }

  name            = each.key
  cluster         = var.cluster_arn
  task_definition = each.value.task_definition
  desired_count   = 2
  launch_type     = "FARGATE"

  network_configuration {
    subnets         = var.subnet_ids
    security_groups = [each.value.security_group]
  }
}

# Three servers on Fargate. They come first, in a state of their own: what joins them must know the root that they draw.
#
# Before: (umask 077; weft keygen > cluster.key)
#         aws secretsmanager create-secret --name weft-cluster-key --secret-string file://cluster.key
# After:  weft acl bootstrap and weft ca roots, as docs/ecs.md has them. Change the servers one by one, as it has that, too.

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
variable "vpc_cidr" { type = string }

variable "subnet_ids" {
  description = "Three subnets, each in a zone of its own."
  type        = list(string)
}

variable "cluster_arn" { type = string }
variable "cluster_key_arn" { type = string }
variable "image" { type = string }

variable "operators_security_group_id" {
  description = "Where operators call the API from: a bastion, or the end of a VPN."
  type        = string
}

variable "log_group" {
  description = "The log group that is made for the containers: on Fargate there is no log without one."
  type        = string
  default     = "/weft/servers"
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

module "group" {
  source = "../../modules/server-container"

  image             = var.image
  dns_namespace     = "weft.internal"
  cluster_key_arn   = var.cluster_key_arn
  log_configuration = local.log
}

module "servers" {
  source = "../../modules/server"

  group         = module.group
  cluster_arn   = var.cluster_arn
  vpc_id        = var.vpc_id
  subnet_ids    = var.subnet_ids
  agent_sources = { vpc = { cidr_ipv4 = var.vpc_cidr } }
  api_sources   = { operators = { security_group_id = var.operators_security_group_id } }
}

output "agent_addresses" {
  description = "`servers` of every agent-container."
  value       = module.group.agent_addresses
}

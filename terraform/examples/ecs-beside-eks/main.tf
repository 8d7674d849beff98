# An ECS service beside an EKS cluster in one mesh. The servers run in the cluster (the Helm chart), behind an internal load
# balancer that passes TCP 8300 on to them; pods and tasks reach each other's mesh port directly.
#
# Before: the chart, with the values that docs/kubernetes.md has for agents outside the cluster (`agents.service` as an internal load
#         balancer, `networkPolicy.agentsFrom` with the tasks' addresses); whose word counts of tasks, as docs/ecs.md has it
# After:  weft intention create --allow shop-orders payments

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
variable "subnet_ids" { type = list(string) }
variable "cluster_arn" { type = string }
variable "image" { type = string }

variable "orders_image" {
  description = "What listens on port 8080 of 127.0.0.1, and calls `payments` at 127.0.0.1:9191."
  type        = string
}

variable "root_fingerprints" { type = list(string) }

variable "servers" {
  description = "The internal load balancer before the chart's servers, as host:8300."
  type        = list(string)
}

variable "eks_pod_security_group_id" {
  description = "The security group of the cluster's pods or nodes."
  type        = string
}

variable "log_group" {
  description = "The log group that is made for the containers: on Fargate there is no log without one."
  type        = string
  default     = "/weft/orders"
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

module "orders_agent" {
  source = "../../modules/agent-container"

  image             = var.image
  servers           = var.servers
  root_fingerprints = var.root_fingerprints
  service_name      = "shop-orders"
  service_port      = 8080
  # `payments` runs in the cluster; the same intention means the same on both sides.
  upstreams         = [{ destination_name = "payments", local_bind_port = 9191 }]
  log_configuration = local.log
  container_definitions = [
    { name = "orders", image = var.orders_image, essential = true, logConfiguration = local.log },
  ]
}

module "orders" {
  source = "../../modules/mesh-task"

  agent        = module.orders_agent
  family       = "shop-orders"
  vpc_id       = var.vpc_id
  mesh_sources = { eks = { security_group_id = var.eks_pod_security_group_id } }
}

# The way back: pods that orders calls admit its tasks at their mesh port.
resource "aws_vpc_security_group_ingress_rule" "pods" {
  security_group_id            = var.eks_pod_security_group_id
  description                  = "mutual TLS from the orders tasks"
  ip_protocol                  = "tcp"
  from_port                    = module.orders.mesh_port
  to_port                      = module.orders.mesh_port
  referenced_security_group_id = module.orders.security_group_id
}

# The servers' pods admit agents. By the load balancer's addresses or the tasks' own, as it is told to keep those or not; and by the
# tasks' own from then on, because a server tells agents where the others are.
resource "aws_vpc_security_group_ingress_rule" "servers" {
  security_group_id = var.eks_pod_security_group_id
  description       = "agents of the VPC, at the servers"
  ip_protocol       = "tcp"
  from_port         = 8300
  to_port           = 8300
  cidr_ipv4         = var.vpc_cidr
}

resource "aws_ecs_service" "orders" {
  name            = "orders"
  cluster         = var.cluster_arn
  task_definition = module.orders.task_definition_arn
  desired_count   = 2
  launch_type     = "FARGATE"

  network_configuration {
    subnets         = var.subnet_ids
    security_groups = [module.orders.security_group_id]
  }
}

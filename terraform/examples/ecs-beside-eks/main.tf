# An ECS service beside an EKS cluster in one mesh. The servers run in the cluster (the Helm chart), behind an internal load
# balancer that passes TCP 8300 on to them; pods and tasks reach each other's mesh port directly.
#
# Before: the chart, as docs/kubernetes.md has it; whose word counts of tasks, as docs/ecs.md has it
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
variable "subnet_ids" { type = list(string) }
variable "cluster_arn" { type = string }
variable "image" { type = string }
variable "root_fingerprints" { type = list(string) }

variable "servers" {
  description = "The internal load balancer before the chart's servers, as host:8300."
  type        = list(string)
}

variable "eks_pod_security_group_id" {
  description = "The security group of the cluster's pods or nodes."
  type        = string
}

module "orders_agent" {
  source = "../../modules/agent-container"

  image             = var.image
  servers           = var.servers
  root_fingerprints = var.root_fingerprints
  service_name      = "shop-orders"
  service_port      = 8080
  # `payments` runs in the cluster; the same intention means the same on both sides.
  upstreams = [{ destination_name = "payments", local_bind_port = 9191 }]
  container_definitions = [
    { name = "orders", image = "registry.example/orders@sha256:...", essential = true },
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

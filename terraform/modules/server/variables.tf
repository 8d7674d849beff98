variable "cluster_arn" {
  description = "The ECS cluster."
  type        = string
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "subnet_ids" {
  description = "The subnets of the servers and their disks, one in each zone."
  type        = list(string)
}

variable "agent_sources" {
  description = "Who may reach the port for agents, by a name of their own."
  type = map(object({
    security_group_id = optional(string)
    cidr_ipv4         = optional(string)
    cidr_ipv6         = optional(string)
  }))
  default  = {}
  nullable = false
}

variable "api_sources" {
  description = "Who may reach the API over TLS, by a name of their own."
  type = map(object({
    security_group_id = optional(string)
    cidr_ipv4         = optional(string)
    cidr_ipv6         = optional(string)
  }))
  default  = {}
  nullable = false
}

variable "cpu" {
  description = "Each task's CPU units."
  type        = number
  default     = 1024
}

variable "memory" {
  description = "Each task's memory in MiB."
  type        = number
  default     = 2048
}

variable "kms_key_arn" {
  description = "The key that the disks are encrypted with; null for AWS's own."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}

variable "image" {
  description = "The weft image. Name it by digest, so that every task runs the same bytes."
  type        = string
}

variable "name" {
  description = "What the servers are called, each with a number."
  type        = string
  default     = "weft"
  nullable    = false
}

variable "servers" {
  description = "How many servers there are. It is fixed when the group is founded."
  type        = number
  default     = 3
  nullable    = false
}

variable "dns_namespace" {
  description = "The private DNS namespace in which each server is found by its name."
  type        = string
}

variable "cluster_key_arn" {
  description = "The secret in Secrets Manager that holds the cluster key, as `weft keygen` prints it."
  type        = string
}

variable "datacenter" {
  description = "The datacenter's name."
  type        = string
  default     = "dc1"
  nullable    = false
}

variable "trust_domain" {
  description = "The trust domain; fixed for ever when the group is founded. Null lets the group draw one."
  type        = string
  default     = null
}

variable "api_names" {
  description = "Further names that the API is asked under, such as a load balancer's."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "log_configuration" {
  description = "The containers' logConfiguration, handed on as it is; null for none."
  type        = any
  default     = null
}

variable "group" {
  description = "The group that the servers make, with their containers: the server-container module itself."
  type = object({
    name            = string
    names           = list(string)
    containers      = any
    ports           = object({ api = number, agents = number, raft = number })
    volume_name     = string
    user_id         = number
    dns_namespace   = string
    cluster_key_arn = string
  })
}

variable "cluster_arn" {
  description = "The ECS cluster."
  type        = string
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "subnet_ids" {
  description = "The subnets of the servers and their disks, each in a zone of its own, for a disk can be mounted in one subnet a zone. The first server is in the first, and so on around: name as many as there are servers. A server stays in its zone, and is away as long as that is."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.subnet_ids) > 0 && length(distinct(var.subnet_ids)) == length(var.subnet_ids)
    error_message = "subnet_ids must name at least one subnet, and none twice."
  }
}

variable "agent_sources" {
  description = "Who may reach the port for agents, by a name of their own."
  type        = map(object({ security_group_id = optional(string), cidr_ipv4 = optional(string), cidr_ipv6 = optional(string) }))
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for source in values(var.agent_sources) : length(compact([source.security_group_id, source.cidr_ipv4, source.cidr_ipv6])) == 1])
    error_message = "agent_sources must say exactly one of security_group_id, cidr_ipv4 and cidr_ipv6 each."
  }
}

variable "api_sources" {
  description = "Who may reach the API over TLS, by a name of their own."
  type        = map(object({ security_group_id = optional(string), cidr_ipv4 = optional(string), cidr_ipv6 = optional(string) }))
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for source in values(var.api_sources) : length(compact([source.security_group_id, source.cidr_ipv4, source.cidr_ipv6])) == 1])
    error_message = "api_sources must say exactly one of security_group_id, cidr_ipv4 and cidr_ipv6 each."
  }
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

variable "cluster_key_kms_key_arn" {
  description = "The key of one's own that the secret of the cluster key is encrypted with; null for AWS's own."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}

variable "family" {
  description = "The family of the task definition; the roles are named after it."
  type        = string
}

variable "vpc_id" {
  description = "The VPC of the task's subnets."
  type        = string
}

variable "mesh_sources" {
  description = "Who may reach the mesh port, by a name of their own: a security group or an address range each."
  type = map(object({
    security_group_id = optional(string)
    cidr_ipv4         = optional(string)
    cidr_ipv6         = optional(string)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for source in values(var.mesh_sources) : length(compact([source.security_group_id, source.cidr_ipv4, source.cidr_ipv6])) == 1])
    error_message = "mesh_sources must say exactly one of security_group_id, cidr_ipv4 and cidr_ipv6 each."
  }
}

variable "requires_compatibilities" {
  description = "Where the task may run."
  type        = list(string)
  default     = ["FARGATE"]
}

variable "cpu" {
  description = "The task's CPU units."
  type        = number
  default     = 256
}

variable "memory" {
  description = "The task's memory in MiB."
  type        = number
  default     = 512
}

variable "volumes" {
  description = "The names of volumes that the application's containers share."
  type        = list(string)
  default     = []
}

variable "iam_role_path" {
  description = "The path of the roles, so that one auth method can be bound to all of them."
  type        = string
  default     = "/weft/"

  validation {
    condition     = can(regex("^/([a-z0-9-]+/)*$", var.iam_role_path))
    error_message = "iam_role_path begins and ends with a slash, such as /weft/."
  }
}

variable "additional_task_role_policies" {
  description = "The ARNs of policies that the application needs."
  type        = list(string)
  default     = []
}

variable "additional_execution_role_policies" {
  description = "The ARNs of policies that starting the task needs, such as reading its secrets."
  type        = list(string)
  default     = []
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

variable "servers" {
  description = "The agent ports of the weft servers, as host:port. One is enough; the agent learns of the others."
  type        = list(string)
}

variable "auth_method" {
  description = "The auth method of type aws-iam by which the agent logs in with the task's role."
  type        = string
  default     = "aws"
  nullable    = false
}

variable "root_fingerprints" {
  description = "The SHA-256 of the roots by which the agent recognises the servers, as `weft ca roots` shows them. Name the next root, too, before it is rotated in."
  type        = list(string)
}

variable "service_name" {
  description = "The service that the task is."
  type        = string
}

variable "service_namespace" {
  description = "The namespace of the service."
  type        = string
  default     = "default"
  nullable    = false
}

variable "service_port" {
  description = "The port that the application listens on; let it listen on 127.0.0.1, so that only the agent reaches it. 0 if it is only ever the caller."
  type        = number
}

variable "service_tags" {
  description = "The service's tags."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "service_meta" {
  description = "The service's meta."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "outbound_only" {
  description = "Whether the task calls others and is never called."
  type        = bool
  default     = false
  nullable    = false
}

variable "upstreams" {
  description = "The services that the task calls; each gets a listener on 127.0.0.1:local_bind_port."
  type = list(object({
    destination_name      = string
    destination_namespace = optional(string)
    local_bind_port       = number
  }))
  default  = []
  nullable = false
}

variable "container_definitions" {
  description = "The task's other containers, as ECS takes them. They come back with what makes them start after the agent."
  type        = any

}

variable "log_configuration" {
  description = "The agent's logConfiguration, handed on as it is; null for none."
  type        = any
  default     = null
}

variable "family" {
  description = "The family of the task definition; the roles are named after it."
  type        = string
}

variable "agent" {
  description = "What the task is in the mesh, with its containers: the agent-container module itself."
  type = object({
    container_definitions = any
    mesh_port             = number
    service               = string
    is_called             = bool
    volume_name           = optional(string)
  })
}

variable "vpc_id" {
  description = "The VPC of the task's subnets."
  type        = string
}

variable "mesh_sources" {
  description = "Who may reach the mesh port, by a name of their own: a security group or an address range each."
  type        = map(object({ security_group_id = optional(string), cidr_ipv4 = optional(string), cidr_ipv6 = optional(string) }))
  default     = {}
  nullable    = false

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

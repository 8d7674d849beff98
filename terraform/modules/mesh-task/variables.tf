variable "family" {
  description = "The family of the task definition; the role with which ECS starts it is named after it."
  type        = string
}

variable "role_name" {
  description = "The name of the task's role, by which the mesh knows who it is; null for the service's own, which the binding rules of the manual make of it. Another one needs a binding rule of its own."
  type        = string
  default     = null

  validation {
    condition     = var.role_name == null || can(regex("^[A-Za-z0-9_+=,.@-]{1,64}$", var.role_name))
    error_message = "role_name is no name of a role: use 1 to 64 of A-Z, a-z, 0-9 and `_+=,.@-`."
  }
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
  description = "The path of the roles, for AWS's own policies on them; the mesh never sees it."
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

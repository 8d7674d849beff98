variable "image" {
  description = "The weft image. Name it by digest, so that every task runs the same bytes."
  type        = string

  validation {
    condition     = can(regex("^[^[:space:]]+$", var.image))
    error_message = "image is empty or holds a space: name the weft image, such as registry.example/weft@sha256:..."
  }
}

variable "name" {
  description = "What the servers are called, each with a number."
  type        = string
  default     = "weft"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,58}[a-z0-9])?$", var.name))
    error_message = "name is no part of a server's name: use 1 to 60 of a-z, 0-9 and `-`, with no `-` at either end."
  }
}

variable "servers" {
  description = "How many servers there are. It is fixed when the group is founded."
  type        = number
  default     = 3
  nullable    = false

  validation {
    condition     = contains([1, 3, 5], var.servers)
    error_message = "servers must be 1, 3 or 5: an even number survives no more than the odd one below it."
  }
}

variable "dns_namespace" {
  description = "The private DNS namespace in which each server is found by its name."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9.-]{0,200}[a-z0-9])?$", var.dns_namespace))
    error_message = "dns_namespace is no DNS name: write it as mesh.internal."
  }
}

variable "cluster_key_arn" {
  description = "The whole ARN of the secret in Secrets Manager that holds the cluster key, as `weft keygen` prints it and nothing else."
  type        = string

  validation {
    # Whole and of one kind, for the role that starts the tasks is allowed to read exactly this.
    condition     = can(regex("^arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]+-[A-Za-z0-9]{6}$", var.cluster_key_arn))
    error_message = "cluster_key_arn must be a secret's whole ARN, as Secrets Manager shows it, with the six characters at its end: the key itself must stand in no plan."
  }
}

variable "datacenter" {
  description = "The datacenter's name."
  type        = string
  default     = "dc1"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.datacenter))
    error_message = "datacenter must be 1 to 63 of a-z, 0-9 and `-`, with no `-` at either end."
  }
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

variable "bind_address" {
  description = "What the servers listen on: 0.0.0.0, or :: in subnets of IPv6 only."
  type        = string
  default     = "0.0.0.0"
  nullable    = false

  validation {
    condition     = contains(["0.0.0.0", "::"], var.bind_address)
    error_message = "bind_address must be 0.0.0.0 or ::, because a task's own address is known only once it runs."
  }
}

variable "volume_name" {
  description = "The volume with the server's log."
  type        = string
  default     = "weft"
  nullable    = false
}

variable "log_configuration" {
  description = "The containers' logConfiguration, handed on as it is; null for none."
  type        = any
  default     = null
}

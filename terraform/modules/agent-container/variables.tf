variable "image" {
  description = "The weft image. Name it by digest, so that every task runs the same bytes."
  type        = string

  validation {
    condition     = can(regex("^[^[:space:]]+$", var.image))
    error_message = "image is empty or holds a space: name the weft image, such as registry.example/weft@sha256:..."
  }
}

variable "container_name" {
  description = "The name of the agent's container in the task."
  type        = string
  default     = "weft-agent"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,255}$", var.container_name))
    error_message = "container_name is no name of an ECS container: use 1 to 255 of A-Z, a-z, 0-9, `_` and `-`."
  }
}

variable "servers" {
  description = "The agent ports of the weft servers, as host:port. One is enough; the agent learns of the others."
  type        = list(string)

  validation {
    condition = length(var.servers) > 0 && alltrue([
      for server in var.servers :
      can(regex("^([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5}$", server)) &&
      try(tonumber(regex("[0-9]+$", server)) >= 1 && tonumber(regex("[0-9]+$", server)) <= 65535, false)
    ])
    error_message = "servers must name at least one agent port as host:port, such as weft.example:8300 or [2001:db8::1]:8300."
  }
}

variable "auth_method" {
  description = "The auth method of type aws-iam by which the agent logs in with the task's role."
  type        = string
  default     = "aws"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,128}$", var.auth_method))
    error_message = "auth_method is no name of an auth method: use 1 to 128 of A-Z, a-z, 0-9, `_` and `-`."
  }
}

variable "root_fingerprints" {
  description = "The SHA-256 of the roots by which the agent recognises the servers, as `weft ca roots` shows them. Name the next root, too, before it is rotated in."
  type        = list(string)

  validation {
    condition     = length(var.root_fingerprints) > 0 && alltrue([for one in var.root_fingerprints : can(regex("^[0-9A-Fa-f]{64}$", one))])
    error_message = "root_fingerprints must hold at least one SHA-256 of 64 digits: without it the agent would hand its login to anybody."
  }
}

variable "service_name" {
  description = "The service that the task is."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.service_name))
    error_message = "service_name is no service name: use 1 to 63 of a-z, 0-9 and `-`, with no `-` at either end."
  }
}

variable "service_namespace" {
  description = "The namespace of the service."
  type        = string
  default     = "default"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.service_namespace))
    error_message = "service_namespace is no namespace: use 1 to 63 of a-z, 0-9 and `-`, with no `-` at either end."
  }
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

variable "service_port" {
  description = "The port that the application listens on; let it listen on 127.0.0.1, so that only the agent reaches it. 0 if the task calls others and is never called."
  type        = number
  nullable    = false

  validation {
    condition     = var.service_port >= 0 && var.service_port <= 65535 && floor(var.service_port) == var.service_port
    error_message = "service_port is no port: use 1 to 65535, or 0 for a task that is never called."
  }

  validation {
    condition     = !contains(values(local.ports), var.service_port)
    error_message = "service_port is one of the agent's own: ${local.ports_text} are taken in a task's one network namespace."
  }
}

variable "upstreams" {
  description = "The services that the task calls. Each gets a listener on 127.0.0.1:local_bind_port, or, without that, on an address of loopback that stands for the service in the whole mesh."
  type = list(object({
    destination_name      = string
    destination_namespace = optional(string)
    local_bind_port       = optional(number)
  }))
  default  = []
  nullable = false

  validation {
    condition = alltrue([
      for upstream in var.upstreams :
      can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", upstream.destination_name)) &&
      can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", coalesce(upstream.destination_namespace, var.service_namespace)))
    ])
    error_message = "upstreams name a destination that is no service name or namespace: use 1 to 63 of a-z, 0-9 and `-`, with no `-` at either end."
  }

  validation {
    condition = alltrue([
      for upstream in var.upstreams : upstream.local_bind_port == null || try(
        upstream.local_bind_port >= 1 && upstream.local_bind_port <= 65535 && floor(upstream.local_bind_port) == upstream.local_bind_port, false
      )
    ])
    error_message = "upstreams name a local_bind_port that is no port: use 1 to 65535, or leave it out."
  }

  validation {
    condition = length(distinct(concat(
      [for port in concat(values(local.ports), [var.service_port]) : tostring(port)], compact(var.upstreams[*].local_bind_port)
    ))) == length(local.ports) + 1 + length(compact(var.upstreams[*].local_bind_port))
    error_message = "upstreams name a local_bind_port twice, or one that the service or the agent itself (${local.ports_text}) listens on: give each its own."
  }
}

variable "forward_port" {
  description = "The port of a forward proxy on 127.0.0.1 for applications that know HTTP_PROXY; null for none."
  type        = number
  default     = null

  validation {
    condition = var.forward_port == null || try(
      var.forward_port >= 1 && var.forward_port <= 65535 && floor(var.forward_port) == var.forward_port, false
    )
    error_message = "forward_port is no port: use 1 to 65535, or null for none."
  }

  validation {
    condition     = !contains(concat(values(local.ports), [var.service_port], local.bound_ports), coalesce(var.forward_port, -1))
    error_message = "forward_port is one that the service, an upstream or the agent itself (${local.ports_text}) listens on: give it its own."
  }
}

variable "task_containers" {
  description = "Names of containers that must run for the task to be called, beside those that have a health check."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for name in var.task_containers : contains(try(var.container_definitions[*].name, []), name)])
    error_message = "task_containers name a container that is not among container_definitions: the task would never be called."
  }
}

variable "container_definitions" {
  description = "The task's other containers, as ECS takes them. They come back with what makes them start after the agent."
  type        = any

  validation {
    condition     = can([for container in var.container_definitions : regex("^[A-Za-z0-9_-]{1,255}$", container.name)])
    error_message = "container_definitions must be a list of ECS container definitions, each with a name."
  }

  validation {
    condition = try(
      length(distinct(concat([var.container_name], [for container in var.container_definitions : container.name]))) ==
      1 + length(var.container_definitions), false
    )
    error_message = "container_definitions name a container twice, or one as the agent's container is named."
  }

  # The volume holds the agent's private keys: whoever mounts it is the service.
  validation {
    condition = try(alltrue([
      for container in var.container_definitions : alltrue(concat(
        try([for mount in container.mountPoints : var.volume_name == null || try(mount.sourceVolume, "") != var.volume_name], []),
        try([for from in container.volumesFrom : try(from.sourceContainer, "") != var.container_name], []),
      ))
    ]), false)
    error_message = "container_definitions hold a container that mounts the agent's volume, where its private keys are."
  }

  validation {
    condition = try(alltrue(flatten([
      for container in var.container_definitions : try(
        [for mapping in container.portMappings : !contains(values(local.ports), try(mapping.containerPort, 0))], []
      )
    ])), false)
    error_message = "container_definitions map a port of the agent: ${local.ports_text} are taken in a task's one network namespace."
  }
}

variable "volume_name" {
  description = "A task volume that the agent keeps its keys and last good state on, for a container that ECS restarts within its task; it must belong to `user`. Null keeps them in memory: the agent is essential, so its end is the task's."
  type        = string
  default     = null

  validation {
    condition     = var.volume_name == null || can(regex("^[A-Za-z0-9_-]{1,255}$", var.volume_name))
    error_message = "volume_name is no name of an ECS volume: use 1 to 255 of A-Z, a-z, 0-9, `_` and `-`."
  }
}

variable "user" {
  description = "The uid:gid that the agent runs as."
  type        = string
  default     = "65532:65532"
  nullable    = false

  validation {
    condition     = can(regex("^[1-9][0-9]{0,9}:[1-9][0-9]{0,9}$", var.user))
    error_message = "user must be uid:gid in numbers, and not root: the image has no names, and the agent needs no privileges."
  }
}

variable "bind_address" {
  description = "What the mesh port listens on: 0.0.0.0, or :: in a subnet of IPv6 only."
  type        = string
  default     = "0.0.0.0"
  nullable    = false

  validation {
    condition     = contains(["0.0.0.0", "::"], var.bind_address)
    error_message = "bind_address must be 0.0.0.0 or ::, because a task's own address is known only once it runs."
  }
}

variable "ulimits" {
  description = "The agent's limits, as ECS takes them. A connection through the mesh takes two files, and ECS gives few by itself; Fargate lets only nofile be set."
  type = list(object({
    name      = string
    softLimit = number
    hardLimit = number
  }))
  default  = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
  nullable = false
}

variable "log_configuration" {
  description = "The agent's logConfiguration, handed on as it is; null for none."
  type        = any
  default     = null

  validation {
    condition     = var.log_configuration == null || can(length(var.log_configuration.logDriver) > 0)
    error_message = "log_configuration has no logDriver: write it as ECS takes it, such as { logDriver = \"awslogs\", options = { ... } }."
  }
}

variable "memory" {
  description = "How many MiB the agent's container may take, past which ECS ends it, and the task with it; null lets it take what the task has, from the application too."
  type        = number
  default     = null

  validation {
    condition     = var.memory == null || try(var.memory >= 32 && floor(var.memory) == var.memory, false)
    error_message = "memory must be a whole number of MiB, and at least 32."
  }
}

variable "cpu" {
  description = "The CPU units that are the agent's where the task has too few for all; null for none of its own."
  type        = number
  default     = null

  validation {
    condition     = var.cpu == null || try(var.cpu >= 1 && floor(var.cpu) == var.cpu, false)
    error_message = "cpu must be a whole number of CPU units, 1024 for one CPU."
  }
}

variable "stop_timeout" {
  description = "The seconds after which ECS kills an agent that it told to stop. The agent drains for drain_deadline, 25 s unless `settings` says otherwise: leave a few more."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = var.stop_timeout >= 2 && var.stop_timeout <= 120 && floor(var.stop_timeout) == var.stop_timeout
    error_message = "stop_timeout must be 2 to 120 seconds, which is what Fargate takes."
  }
}

variable "settings" {
  description = "Further settings of the agent, as its configuration files have them, such as { access_log = \"-\", drain_deadline = \"60s\", otlp_endpoint = \"http://127.0.0.1:4318\" }. Nothing in it may be a secret: it stands in the task definition."
  type        = any
  default     = {}
  nullable    = false

  validation {
    condition = can(keys(var.settings)) && try(length(setintersection(keys(var.settings), [
      "platform", "bind", "servers", "auth_method", "root_fingerprints", "http_port", "dns_port", "admin_port", "mesh_port", "service",
      "services", "data_dir", "forward_port", "task_containers", "join_token_file", "credential", "bearer_token_file",
    ])) == 0, false)
    error_message = "settings must be an object, and say nothing that has a variable of its own, or that a task has another way for."
  }
}

variable "service_settings" {
  description = "Further fields of the service's definition, such as { checks = [{ name = \"up\", http = \"http://127.0.0.1:8080/health\", interval = \"5s\" }] }."
  type        = any
  default     = {}
  nullable    = false

  validation {
    condition = can(keys(var.service_settings)) && try(length(setintersection(keys(var.service_settings), [
      "name", "namespace", "port", "tags", "meta", "connect", "proxy",
    ])) == 0, false)
    error_message = "service_settings must be an object, and say nothing that has a variable of its own."
  }
}

variable "environment" {
  description = "Further variables of the agent's container, such as { WEFT_LOG_FORMAT = \"json\", AWS_ENDPOINT_URL_STS = \"https://...\" }."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = !contains(keys(var.environment), "WEFT_CONFIG")
    error_message = "environment must not hold WEFT_CONFIG, which the module writes."
  }
}

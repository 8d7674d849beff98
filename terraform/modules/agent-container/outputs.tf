output "container_definitions" {
  description = "All containers of the task, the agent first. Put jsonencode() of it into aws_ecs_task_definition.container_definitions."
  value       = concat([local.agent], local.others)
}

output "agent_container" {
  description = "The agent's container alone."
  value       = local.agent
}

output "mesh_port" {
  description = "The only port that a security group of the task needs to let in, from the other agents. Whatever else it lets in passes the agent by."
  value       = local.ports.mesh
}

output "config" {
  description = "What the agent is told by WEFT_CONFIG."
  value       = jsonencode(local.config)
}

output "service" {
  description = "The service that the task is, with its namespace."
  value       = "${var.service_namespace}/${var.service_name}"
}

output "is_called" {
  description = "Whether others call the task."
  value       = var.service_port != 0
}

output "volume_name" {
  description = "The volume that the task definition must declare for the agent; null for none."
  value       = var.volume_name
}

output "container_definitions" {
  description = "All containers of the task, the agent first. Put jsonencode() of it into aws_ecs_task_definition.container_definitions."
  value       = concat([local.agent], local.others)
}

output "agent_container" {
  description = "The agent's container alone."
  value       = local.agent
}

output "volume_name" {
  description = "The volume that the task definition must declare."
  value       = var.volume_name
}

output "mesh_port" {
  description = "The only port that a security group of the task needs to let in, from the other agents. Whatever else it lets in passes the agent by."
  value       = local.ports.mesh
}

output "service_definition" {
  description = "What must stand in service_definition_path before the agent starts."
  value       = jsonencode(local.service_definition)
}

output "service_definition_path" {
  description = "Where the agent reads service_definition, on the volume."
  value       = local.service_definition_path
}

output "join_token_path" {
  description = "Where the agent reads its join token, on the volume: one line, mode 0400 or 0600, owned by `user`."
  value       = local.join_token_path
}

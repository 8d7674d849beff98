output "containers" {
  description = "The container of each server, by the server's name."
  value       = local.containers
}

output "names" {
  description = "The servers' names."
  value       = local.names
}

output "ports" {
  description = "What the servers listen on: `api` for people and programs, `agents` for agents, `raft` for one another."
  value       = local.ports
}

output "agent_addresses" {
  description = "What agents are told of the servers."
  value       = [for name in local.names : "${name}.${var.dns_namespace}:${local.ports.agents}"]
}

output "volume_name" {
  description = "The volume that each task definition must declare; it has to outlive the task."
  value       = var.volume_name
}

output "user_id" {
  description = "The number of the user, and of the group, that the volume must belong to."
  value       = local.user_id
}

output "name" {
  description = "What the servers are called, each with a number."
  value       = var.name
}

output "dns_namespace" {
  description = "The private DNS namespace in which each server is found by its name."
  value       = var.dns_namespace
}

output "cluster_key_arn" {
  description = "The secret that the role which starts the tasks must be able to read."
  value       = var.cluster_key_arn
}

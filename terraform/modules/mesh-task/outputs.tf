output "task_definition_arn" {
  description = "The task definition."
  value       = aws_ecs_task_definition.this.arn
}

output "task_role_arn" {
  description = "The task's role, with its path, as AWS's own policies name it."
  value       = aws_iam_role.task.arn
}

output "principal_arn" {
  description = "The task's role as the auth method's BoundIAMPrincipalARNs name it: without its path, which nobody who logs in shows."
  value       = replace(aws_iam_role.task.arn, ":role${var.iam_role_path}", ":role/")
}

output "task_role_id" {
  description = "The task's role by name, to attach what the application needs."
  value       = aws_iam_role.task.id
}

output "execution_role_arn" {
  description = "The role with which ECS starts the task."
  value       = aws_iam_role.execution.arn
}

output "execution_role_id" {
  description = "The role with which ECS starts the task, by name."
  value       = aws_iam_role.execution.id
}

output "security_group_id" {
  description = "The security group that admits the mesh port alone. Give the task no other one with an ingress rule."
  value       = aws_security_group.mesh.id
}

output "mesh_port" {
  description = "The port that other agents call."
  value       = var.agent.mesh_port
}

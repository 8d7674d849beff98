output "security_group_id" {
  description = "The servers' security group."
  value       = aws_security_group.servers.id
}

output "file_system_id" {
  description = "The servers' disks."
  value       = aws_efs_file_system.data.id
}

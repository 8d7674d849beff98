//! AWS: who somebody is by its Identity and Access Management, and what a task of ECS is told of itself.

mod iam;
mod task;

pub use iam::{AwsCredentials, AwsLogins};
pub use task::{EcsTask, TaskFacts};

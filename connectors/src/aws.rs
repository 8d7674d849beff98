//! AWS: who somebody is by its Identity and Access Management, what a task of ECS is told of itself, and what Cloud Map and ECS
//! know of services.

pub mod cloud_map;
mod iam;
mod task;

pub use iam::{AwsCredentials, AwsLogins};
pub use task::{EcsTask, TaskFacts};

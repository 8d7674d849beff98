//! AWS: who somebody is by its Identity and Access Management.

mod iam;

pub use iam::{AwsCredentials, AwsLogins};

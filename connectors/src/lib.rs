//! What weft knows of the platforms that it runs on.
//!
//! A connector keeps the catalog in step with a platform: it observes what is there, plans what to change and acts. The
//! plan is written once, for every platform, and is pure.

mod admin;
pub mod aws;
mod detect;
pub mod keeper;
pub mod kubernetes;
mod metrics;
mod plan;
pub mod servers;
pub mod shell;

pub use aws::{AwsCredentials, AwsLogins, EcsTask, TaskFacts};
pub use detect::{ECS_METADATA, Surroundings, detect};
pub use metrics::Metrics;
pub use plan::{Caution, Plan, SCOPE, Sight, Wanted, plan, settle};

use std::sync::Arc;

use wire::login::LoginMaker;
use wire::web::Reach;

/// Returns what checks the logins of every platform that has one, for servers; `tokens` are those to ask API servers with, and
/// AWS is asked within `sts`.
#[must_use]
pub fn login_makers(tokens: kubernetes::ReviewerTokens, sts: Reach) -> Vec<Arc<dyn LoginMaker>> {
    vec![Arc::new(AwsLogins::new(sts)), Arc::new(kubernetes::KubernetesLogins::new(tokens))]
}

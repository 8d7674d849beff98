//! What weft knows of the platforms that it runs on.
//!
//! A connector keeps the catalog in step with a platform: it observes what is there, plans what to change and acts. The
//! plan is written once, for every platform, and is pure.

mod admin;
mod detect;
pub mod keeper;
pub mod kubernetes;
mod metrics;
mod plan;
pub mod servers;
pub mod shell;

pub use detect::{Surroundings, detect};
pub use metrics::Metrics;
pub use plan::{Caution, Plan, SCOPE, Sight, Wanted, plan, settle};

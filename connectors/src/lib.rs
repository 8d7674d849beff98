//! What weft knows of the platforms that it runs on.
//!
//! A connector keeps the catalog in step with a platform: it observes what is there, plans what to change and acts. The
//! plan is written once, for every platform, and is pure.

mod detect;
pub mod kubernetes;
mod plan;

pub use detect::{Surroundings, detect};
pub use plan::{Caution, Plan, SCOPE, Sight, Wanted, plan, settle};

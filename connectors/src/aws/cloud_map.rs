//! AWS Cloud Map: what stands there comes into the catalog, and chosen services go there.
//!
//! A cycle looks at everything within a budget for each API, and then decides with two pure functions: [`import`] says what
//! the catalog should have, [`export`] what Cloud Map should. Marks on every record say which mesh it began in and whose it
//! is, so that nothing goes in a circle and nobody's records are touched but the connector's own.

mod budget;
mod client;
mod ecs;
mod export;
mod import;
mod mark;
mod run;
mod view;

pub use budget::CloudError;
pub use export::{CloudAction, ExportPlan, ExportRule, Exported, export, withdraw};
pub use import::{ImportRule, import};
pub use mark::Owner;
pub use run::{CloudMap, CloudSettings, Shown};
pub use view::{CloudInstance, CloudService, CloudView, Health, TaskWord};

#[cfg(test)]
mod tests;

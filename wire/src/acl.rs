//! Tokens, policies and roles as Consul's clients write and read them, and the language of policies.

mod links;
mod objects;
mod rules;
mod template;
mod token;

pub use links::{AclLink, LinkTexts, NodeIdentity, ServiceIdentity};
pub use objects::{PolicyRequest, PolicyView, RoleRequest, RoleView};
pub use rules::parse_rules;
pub use template::{TemplateName, TemplateVariables, TemplatedPolicyRequest, TemplatedPolicyView, templates};
pub use token::{CloneRequest, OwnRights, TokenRequest, TokenView};

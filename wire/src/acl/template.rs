//! Policies that weft writes itself, each for one name.

use catalog::TemplatedPolicy;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::decode::{DecodeError, Fields, Shape, from_value};

/// Names a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum TemplateName {
    /// What a service needs for itself.
    #[serde(rename = "builtin/service")]
    Service,
    /// What a node needs for itself.
    #[serde(rename = "builtin/node")]
    Node,
    /// What answering names needs.
    #[serde(rename = "builtin/dns")]
    Dns,
}

impl std::str::FromStr for TemplateName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "builtin/service" => Ok(Self::Service),
            "builtin/node" => Ok(Self::Node),
            "builtin/dns" => Ok(Self::Dns),
            _ => Err(format!(
                "no template `{}`; there are `builtin/service`, `builtin/node` and `builtin/dns`",
                text.escape_debug()
            )),
        }
    }
}

impl TemplateName {
    /// Returns the name as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "builtin/service",
            Self::Node => "builtin/node",
            Self::Dns => "builtin/dns",
        }
    }

    /// Returns the template's text; `${name}` stands for the name that it is used for.
    fn text(self) -> &'static str {
        match self {
            Self::Service => {
                "service \"${name}\" {\n  policy = \"write\"\n}\nservice_prefix \"\" {\n  policy = \"read\"\n}\nnode_prefix \"\" {\n  policy = \"read\"\n}\n"
            }
            Self::Node => {
                "node \"${name}\" {\n  policy = \"write\"\n}\nservice_prefix \"\" {\n  policy = \"read\"\n}\n"
            }
            Self::Dns => "service_prefix \"\" {\n  policy = \"read\"\n}\nnode_prefix \"\" {\n  policy = \"read\"\n}\n",
        }
    }

    /// Shows the template in Consul's names.
    pub fn shown(self) -> Value {
        let schema = match self {
            Self::Dns => String::new(),
            Self::Service | Self::Node => {
                r#"{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}"#.to_owned()
            }
        };
        json!({ "TemplateName": self.as_str(), "Schema": schema, "Template": self.text() })
    }
}

/// Returns all templates.
pub fn templates() -> [TemplateName; 3] {
    [TemplateName::Dns, TemplateName::Node, TemplateName::Service]
}

/// Shows a templated policy that something is linked to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct TemplatedPolicyView {
    /// The template.
    pub template_name: TemplateName,
    /// What it is used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_variables: Option<TemplateVariables>,
}

/// Says what a template is used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct TemplateVariables {
    /// The name of a service or node.
    pub name: String,
}

impl TemplatedPolicyView {
    pub(super) fn of(policy: &TemplatedPolicy) -> Self {
        let (template_name, name) = match policy {
            TemplatedPolicy::Service { name } => (TemplateName::Service, Some(name.to_string())),
            TemplatedPolicy::Node { name } => (TemplateName::Node, Some(name.to_string())),
            TemplatedPolicy::Dns => (TemplateName::Dns, None),
        };
        Self { template_name, template_variables: name.map(|name| TemplateVariables { name }) }
    }

    /// Returns the policy.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] where the name is missing, or is none of its kind.
    pub fn policy(&self) -> Result<TemplatedPolicy, DecodeError> {
        let path = || "TemplateVariables.Name".to_owned();
        let refused = |reason: String| DecodeError::Value { path: path(), reason };
        let name = self.template_variables.as_ref().map(|variables| variables.name.as_str());
        let needed = || name.ok_or_else(|| DecodeError::Missing { path: path() });
        Ok(match self.template_name {
            TemplateName::Service => TemplatedPolicy::Service {
                name: needed()?.parse().map_err(|error: catalog::NameError| refused(error.to_string()))?,
            },
            TemplateName::Node => TemplatedPolicy::Node {
                name: needed()?.parse().map_err(|error: catalog::NameError| refused(error.to_string()))?,
            },
            TemplateName::Dns => TemplatedPolicy::Dns,
        })
    }

    /// Returns the rules as a text, with the name in its place.
    pub fn text(&self) -> String {
        let name = self.template_variables.as_ref().map_or("", |variables| variables.name.as_str());
        self.template_name.text().replace("${name}", name)
    }
}

/// Asks what a template would grant for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplatedPolicyRequest {
    /// The name; empty where the template takes none.
    pub name: String,
}

impl Shape for TemplatedPolicyRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self { name: fields.text("Name")? })
    }
}

pub(super) fn read_template(fields: &mut Fields) -> Result<TemplatedPolicy, DecodeError> {
    let template_name: TemplateName = fields.required("TemplateName")?;
    let variables = match fields.take("TemplateVariables") {
        Some((value, path)) => Some(from_value::<TemplatedPolicyRequest>(value, &path)?),
        None => None,
    };
    let template_variables = variables.filter(|it| !it.name.is_empty()).map(|it| TemplateVariables { name: it.name });
    TemplatedPolicyView { template_name, template_variables }.policy()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::parse_rules;

    #[test]
    fn a_templates_text_means_what_the_policy_grants() {
        for policy in [
            TemplatedPolicy::Service { name: "web".parse().unwrap() },
            TemplatedPolicy::Node { name: "n1".parse().unwrap() },
            TemplatedPolicy::Dns,
        ] {
            let shown = TemplatedPolicyView::of(&policy);
            assert_eq!(parse_rules(&shown.text()).unwrap(), policy.rules());
            assert_eq!(shown.policy().unwrap(), policy);
        }
    }
}

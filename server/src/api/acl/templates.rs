//! `/v1/acl/templated-policy...`: the policies that weft writes itself, each for one name.

use std::collections::BTreeMap;

use axum::response::Response;
use http::Method;
use serde_json::json;
use wire::acl::{TemplateName, TemplateVariables, TemplatedPolicyRequest, TemplatedPolicyView, templates};

use crate::api::auth::Right;
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::api::route::{Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/acl/templated-policies", Right::AnyToken, list).answers("{object}"),
        route(Method::GET, "/v1/acl/templated-policy/name/{*name}", Right::AnyToken, read).answers("object"),
        route(Method::PUT, "/v1/acl/templated-policy/preview/{*name}", Right::AnyToken, preview)
            .takes("object")
            .answers("object"),
    ]
}

/// Answers with all templates by name: they are the same in every mesh.
async fn list(call: Call) -> Result<Response, ApiError> {
    let all: BTreeMap<&str, _> = templates().into_iter().map(|name| (name.as_str(), name.shown())).collect();
    call.json(&all)
}

/// Answers with a template.
async fn read(call: Call) -> Result<Response, ApiError> {
    let name: TemplateName = call.path_name("name")?;
    call.json(&name.shown())
}

/// Answers with the rules that a template gives for a name.
async fn preview(call: Call) -> Result<Response, ApiError> {
    let template_name: TemplateName = call.path_name("name")?;
    let request: TemplatedPolicyRequest = call.decode()?;
    let template_variables = Some(request.name).filter(|name| !name.is_empty()).map(|name| TemplateVariables { name });
    let shown = TemplatedPolicyView { template_name, template_variables };
    shown.policy().map_err(|error| call.body_error(&error))?;
    let description = format!("what `{}` grants", template_name.as_str());
    call.json(&json!({ "Name": template_name.as_str(), "Description": description, "Rules": shown.text() }))
}

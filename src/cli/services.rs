//! `weft services`: what stands beside the local agent.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Map, Value};
use wire::decode::Format;

use super::{
    ApiOptions,
    api::Api,
    error::hinted,
    output::{self, Output, printable, table},
};

/// No definition file is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Register and list the services of the local agent.
#[derive(Debug, Subcommand)]
pub(super) enum Services {
    /// Register the services that files define
    Register(Register),
    /// Take a service away from the agent
    Deregister(Deregister),
    /// List the agent's services
    List(List),
}

/// Register the services that files define, in Consul's format, HCL or JSON.
#[derive(Debug, Args)]
pub(super) struct Register {
    /// Files that end in .hcl or .json
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Deregister {
    /// The service's id; its name, where the definition gives no id
    id: String,
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(verb: Services, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    let namespace = [("ns", options.namespace.as_str())];
    match verb {
        Services::Register(register) => {
            // All are read before the first is sent, so that a bad file leaves nothing half done.
            let mut definitions = Vec::new();
            for path in &register.files {
                definitions.extend(definitions_in(path).with_context(|| format!("reading `{}`", path.display()))?);
            }
            for definition in definitions {
                let name = name_of(&definition);
                api.write("/v1/agent/service/register", &namespace, &definition)
                    .await
                    .with_context(|| format!("registering service `{name}`"))?;
                output::line(&format!("Registered: {}", printable(&name)))?;
            }
        }
        Services::Deregister(deregister) => {
            api.write_to("/v1/agent/service/deregister", &deregister.id, &namespace).await?;
            output::line(&format!("Deregistered: {}", printable(&deregister.id)))?;
        }
        Services::List(list) => {
            let services: BTreeMap<String, Value> = api.get("/v1/agent/services", &namespace).await?;
            list.output.print(&services, |services| {
                let rows = services.iter().map(|(id, service)| {
                    let text = |name: &str| service[name].as_str().unwrap_or_default().to_owned();
                    vec![id.clone(), text("Service"), service["Port"].to_string()]
                });
                table(&["ID", "Service", "Port"], rows.collect(), "no services")
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes a file apart into the definitions in it: `service` once or more, or `services`, or a bare definition in JSON.
fn definitions_in(path: &PathBuf) -> anyhow::Result<Vec<Value>> {
    let format = Format::of(path)
        .ok_or_else(|| hinted("it is neither HCL nor JSON by its name", "name it so that it ends in .hcl or .json"))?;
    let size = std::fs::metadata(path)?.len();
    anyhow::ensure!(size <= FILE_BYTES_MAX, "it has {size} bytes, and a definition has at most {FILE_BYTES_MAX}");
    let Value::Object(document) = format.read(&std::fs::read(path)?)? else {
        return Err(hinted("it is no object", "write `service { ... }`"));
    };
    let (mut found, mut rest) = (Vec::new(), Map::new());
    for (name, value) in document {
        match (name.to_ascii_lowercase().as_str(), value) {
            ("service" | "services", Value::Array(several)) => found.extend(several),
            ("service", one) => found.push(one),
            (_, value) => {
                rest.insert(name, value);
            }
        }
    }
    match (found.is_empty(), rest.is_empty()) {
        // The body of the API's own call: the definition itself.
        (true, false) => Ok(vec![Value::Object(rest)]),
        (false, true) => Ok(found),
        (true, true) => Err(hinted("it defines no service", "write `service { ... }`")),
        (false, false) => {
            let names: Vec<String> = rest.into_iter().map(|(name, _)| name).collect();
            Err(hinted(
                format!("beside services it has `{}`", names.join("`, `")),
                "keep service definitions alone in their file",
            ))
        }
    }
}

fn name_of(definition: &Value) -> String {
    let named = |wanted: &str| {
        let object = definition.as_object()?;
        let (_, value) = object.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
        value.as_str().map(str::to_owned)
    };
    named("id").or_else(|| named("name")).unwrap_or_else(|| "(unnamed)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, content: &str, want: Result<&[&str], &str>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        let found = definitions_in(&path).map(|found| found.iter().map(name_of).collect::<Vec<_>>());
        match (found, want) {
            (Ok(found), Ok(want)) => assert_eq!(found, want),
            (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{error}"),
            (found, want) => panic!("{found:?} is not {want:?}"),
        }
    }

    #[test]
    fn a_file_defines_one_service_or_several() {
        check("a.hcl", "service { name = \"web\" }", Ok(&["web"]));
        check("a.json", r#"{"services": [{"Name": "web"}, {"name": "api", "id": "api-1"}]}"#, Ok(&["web", "api-1"]));
        check("a.json", r#"{"Name": "web", "Port": 1}"#, Ok(&["web"]));
    }

    #[test]
    fn f1_a_file_of_another_kind_is_refused_with_what_to_do() {
        check("a.txt", "service {}", Err("neither HCL nor JSON"));
        check("a.json", "{}", Err("defines no service"));
        check("a.json", r#"{"service": {"name": "web"}, "node": "x"}"#, Err("`node`"));
    }
}

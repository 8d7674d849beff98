//! What an agent's files say of probes that it makes in place of a kubelet: the `application_probes`.

use std::time::Duration;

use agent::{ApplicationProbe, ApplicationProbeError};
use wire::decode::{DecodeError, Fields};

/// How long an application may take that nothing is said of, as Kubernetes has it.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Reads the probes; each has a path of its own.
pub(super) fn read(fields: &mut Fields) -> Result<Vec<ApplicationProbe>, DecodeError> {
    fields.objects("application_probes", read_one)
}

fn read_one(fields: &mut Fields) -> Result<ApplicationProbe, DecodeError> {
    let path: String = fields.required("path")?;
    let timeout = fields.duration("timeout")?.unwrap_or(TIMEOUT);
    let (http, tcp, grpc) = (fields.text("http")?, fields.text("tcp")?, fields.text("grpc")?);
    let service = fields.text("grpc_service")?;
    let headers = fields.map("header", |value, path| {
        serde_json::from_value::<Vec<String>>(value)
            .map_err(|_| DecodeError::Value { path: path.to_owned(), reason: "it is no list of texts".to_owned() })
    })?;
    let refused = |name| move |error: ApplicationProbeError| (name, error);
    let probe = match (http.as_str(), tcp.as_str(), grpc.as_str()) {
        (url, "", "") if !url.is_empty() => {
            ApplicationProbe::http(&path, url, headers, timeout).map_err(refused("http"))
        }
        ("", address, "") if !address.is_empty() => {
            ApplicationProbe::tcp(&path, address, timeout).map_err(refused("tcp"))
        }
        ("", "", address) if !address.is_empty() => {
            ApplicationProbe::grpc(&path, address, &service, timeout).map_err(refused("grpc"))
        }
        _ => return Err(fields.refuse("path", "a probe asks by one of `http`, `tcp` and `grpc`")),
    };
    probe.map_err(|(name, error)| fields.refuse(name, error))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn reading(probes: Value) -> Result<Vec<ApplicationProbe>, String> {
        let mut fields = Fields::new(json!({ "application_probes": probes }), "").unwrap();
        let read = read(&mut fields).map_err(|error| error.to_string())?;
        fields.finish().map_err(|error| error.to_string())?;
        Ok(read)
    }

    #[test]
    fn probes_are_read_as_an_injector_writes_them() {
        let probes = json!([
            { "path": "app/readiness", "http": "http://127.0.0.1:80/", "header": { "X-A": ["b"] }, "timeout": "2s" },
            { "path": "app/liveness", "tcp": "127.0.0.1:80", "timeout": "1s" },
            { "path": "app/startup", "grpc": "127.0.0.1:80", "grpc_service": "ready", "timeout": "1s" },
        ]);
        assert_eq!(reading(probes).unwrap().len(), 3);
    }

    #[test]
    fn f1_a_probe_that_is_none_is_refused_by_name() {
        for (probe, want) in [
            (json!({ "path": "a/b" }), "one of `http`, `tcp` and `grpc`"),
            (json!({ "path": "a/b", "http": "http://127.0.0.1/", "tcp": "127.0.0.1:80" }), "one of `http`"),
            (json!({ "path": "a/b", "http": "http://10.0.0.1/" }), "not the application beside the agent"),
            (json!({ "path": "a", "tcp": "127.0.0.1:80" }), "no path of a probe"),
            (json!({ "path": "a/b", "tcp": "127.0.0.1:80", "interval": "1s" }), "interval"),
        ] {
            let error = reading(json!([probe])).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }
}

//! Asking admission webhooks, as their configurations say.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{Shared, serve::Asked, store::Refused};

/// Has every webhook that is meant change an object, in the order of their names.
pub(super) async fn admit(
    shared: &Shared,
    asked: &Asked,
    operation: &str,
    mut object: Value,
    before: Option<Value>,
) -> Result<Value, Refused> {
    let (hooks, labels) = {
        let store = shared.store.lock().unwrap();
        let configurations = store.list("mutatingwebhookconfigurations.admissionregistration.k8s.io");
        let hooks = configurations.flat_map(|one| one["webhooks"].as_array().into_iter().flatten().cloned());
        let namespace = store.get("namespaces", "", &asked.key.namespace).cloned().unwrap_or_default();
        let mut labels = json!({"kubernetes.io/metadata.name": asked.key.namespace});
        json_patch::merge(
            &mut labels,
            &namespace["metadata"]["labels"].as_object().cloned().unwrap_or_default().into(),
        );
        (hooks.collect::<Vec<_>>(), labels)
    };
    let plural = asked.key.resource.split('.').next().unwrap_or_default();
    for hook in hooks {
        let covers = |rule: &Value| {
            let lists = |field: &str, wanted: &str| {
                rule[field].as_array().into_iter().flatten().any(|one| one == "*" || one == wanted)
            };
            lists("operations", operation)
                && lists("apiGroups", &asked.group)
                && lists("apiVersions", &asked.version)
                && lists("resources", plural)
        };
        if !hook["rules"].as_array().into_iter().flatten().any(covers)
            || !selects(&hook["namespaceSelector"], &labels)
            || !selects(&hook["objectSelector"], &object["metadata"]["labels"])
        {
            continue;
        }
        let uid = format!("{:032x}", u128::from_be_bytes(wire::crypto::random()));
        let (group, version) = (&asked.group, &asked.version);
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": uid, "kind": {"group": group, "version": version, "kind": object["kind"]},
            "resource": {"group": group, "version": version, "resource": plural}, "name": asked.key.name,
            "namespace": asked.key.namespace, "operation": operation, "userInfo": {"username": asked.user},
            "object": object, "oldObject": before, "dryRun": false, "options": {},
        }});
        let name = hook["name"].as_str().unwrap_or_default();
        match ask(shared, &hook, &review).await.and_then(|answer| judge(&answer, &uid, object.clone())) {
            Ok(Ok(changed)) => object = changed,
            Ok(Err(message)) => {
                return Err((403, "Forbidden", format!("admission webhook \"{name}\" denied the request: {message}")));
            }
            Err(_) if hook["failurePolicy"] == "Ignore" => {}
            Err(error) => return Err((500, "InternalError", format!("failed calling webhook \"{name}\": {error}"))),
        }
    }
    Ok(object)
}

/// Reads an answer: the object as it is to be, or why it may not be.
fn judge(answer: &Value, uid: &str, mut object: Value) -> Result<Result<Value, String>, String> {
    let response = &answer["response"];
    if answer["kind"] != "AdmissionReview" || answer["apiVersion"] != "admission.k8s.io/v1" || response["uid"] != uid {
        return Err(format!("expected an answer to {uid} of admission.k8s.io/v1, got {answer}"));
    }
    if response["allowed"] != true {
        return Ok(Err(response["status"]["message"].as_str().unwrap_or("without explanation").to_owned()));
    }
    if let Some(patch) = response["patch"].as_str() {
        if response["patchType"] != "JSONPatch" {
            return Err("patchType must be JSONPatch".to_owned());
        }
        let patch = data_encoding::BASE64.decode(patch.as_bytes()).map_err(|error| error.to_string())?;
        let patch: json_patch::Patch = serde_json::from_slice(&patch).map_err(|error| error.to_string())?;
        json_patch::patch(&mut object, &patch).map_err(|error| error.to_string())?;
    }
    Ok(Ok(object))
}

async fn ask(shared: &Shared, hook: &Value, review: &Value) -> Result<Value, String> {
    let timeout = Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10));
    let exchange = exchange(shared, &hook["clientConfig"], review);
    match tokio::time::timeout(timeout, exchange).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("context deadline exceeded".to_owned()),
    }
}

async fn exchange(
    shared: &Shared,
    client: &Value,
    review: &Value,
) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
    let (address, host, path) = place(shared, client)?;
    let bundle = data_encoding::BASE64.decode(client["caBundle"].as_str().unwrap_or_default().as_bytes())?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bundle) {
        roots.add(certificate?)?;
    }
    let tls = ClientConfig::builder_with_provider(wire::crypto::provider()).with_safe_default_protocol_versions()?;
    let tls = tls.with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let stream = connector.connect(ServerName::try_from(host.clone())?, TcpStream::connect(address).await?).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::post(format!("{path}?timeout=10s"))
        .header("host", host)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(review.to_string())))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        return Err(format!("the webhook answered {status}: {}", String::from_utf8_lossy(&body)).into());
    }
    Ok(serde_json::from_slice(&body)?)
}

/// Returns where a webhook is: at the address in a URL, or where a service of the cluster was said to be.
fn place(shared: &Shared, client: &Value) -> Result<(SocketAddr, String, String), String> {
    if let Some(rest) = client["url"].as_str().and_then(|url| url.strip_prefix("https://")) {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let address: SocketAddr = authority.parse().map_err(|_| format!("{authority} is no address with a port"))?;
        return Ok((address, address.ip().to_string(), format!("/{path}")));
    }
    let part = |field: &str| client["service"][field].as_str().unwrap_or_default();
    let (namespace, name) = (part("namespace"), part("name"));
    let known = shared.services.lock().unwrap().get(&format!("{namespace}/{name}")).copied();
    let address = known.ok_or_else(|| format!("service \"{name}\" not found"))?;
    Ok((address, format!("{name}.{namespace}.svc"), part("path").to_owned()))
}

/// Decides by a label selector as objects have it; one that is empty selects everything.
fn selects(selector: &Value, labels: &Value) -> bool {
    let exact = selector["matchLabels"].as_object().into_iter().flatten();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    exact.into_iter().all(|(name, value)| labels[name] == *value)
        && expressions.into_iter().all(|one| {
            let label = &labels[one["key"].as_str().unwrap_or_default()];
            let is_among = one["values"].as_array().is_some_and(|values| values.contains(label));
            match one["operator"].as_str() {
                Some("In") => is_among,
                Some("NotIn") => !is_among,
                Some("Exists") => !label.is_null(),
                _ => label.is_null(),
            }
        })
}

//! Asking admission webhooks, as their configurations say.

use std::{error::Error, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::serve::{Asked, fits};
use super::{Shared, store::Refused};

/// Has every webhook that is meant change an object that is to be made, in the order of their names.
pub(super) async fn admit(shared: &Shared, asked: &Asked, mut object: Value) -> Result<Value, Refused> {
    let (hooks, labels) = {
        let store = shared.store();
        let configurations = store.list("mutatingwebhookconfigurations.admissionregistration.k8s.io");
        let hooks = configurations.flat_map(|one| one["webhooks"].as_array().into_iter().flatten().cloned());
        let namespace = store.get("namespaces", "", &asked.key.namespace).cloned().unwrap_or_default();
        let mut labels = json!({"kubernetes.io/metadata.name": asked.key.namespace});
        json_patch::merge(&mut labels, &namespace["metadata"].get("labels").cloned().unwrap_or(json!({})));
        (hooks.collect::<Vec<_>>(), labels)
    };
    let resource = asked.key.resource.split('.').next().unwrap_or_default();
    let (group, version) = (asked.group.as_str(), asked.version.as_str());
    let covers = |rule: &Value| {
        let wanted =
            [("operations", "CREATE"), ("apiGroups", group), ("apiVersions", version), ("resources", resource)];
        wanted.iter().all(|(field, one)| rule[field].as_array().is_some_and(|all| all.iter().any(|it| it == *one)))
    };
    for hook in hooks.iter().filter(|hook| selects(&hook["namespaceSelector"], &labels)) {
        if !hook["rules"].as_array().into_iter().flatten().any(covers) {
            continue;
        }
        let uid = wire::crypto::random_hex(16);
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": uid, "kind": {"group": group, "version": version, "kind": object["kind"]},
            "resource": {"group": group, "version": version, "resource": resource}, "name": asked.key.name,
            "namespace": asked.key.namespace, "operation": "CREATE", "userInfo": {"username": asked.user},
            "object": object, "dryRun": false, "options": {},
        }});
        let name = hook["name"].as_str().unwrap_or_default();
        let answer = ask(shared, &hook["clientConfig"], &review).await;
        match answer.and_then(|answer| judge(&answer["response"], &uid, &mut object)) {
            Ok(None) => {}
            Ok(Some(why)) => {
                return Err((403, "Forbidden", format!("admission webhook \"{name}\" denied the request: {why}")));
            }
            // As all of weft's hooks ask for.
            Err(error) => return Err((500, "InternalError", format!("failed calling webhook \"{name}\": {error}"))),
        }
    }
    Ok(object)
}

type Failure = Box<dyn Error + Send + Sync>;

/// Reads an answer, and makes the object what it is to be; returns why it may not be, if so.
fn judge(response: &Value, uid: &str, object: &mut Value) -> Result<Option<String>, Failure> {
    if response["uid"] != uid {
        return Err(format!("expected an answer to {uid}, got {response}").into());
    }
    if response["allowed"] != true {
        return Ok(Some(response["status"]["message"].as_str().unwrap_or("without explanation").to_owned()));
    }
    if let Some(patch) = response["patch"].as_str().filter(|_| response["patchType"] == "JSONPatch") {
        let patch: json_patch::Patch = serde_json::from_slice(&data_encoding::BASE64.decode(patch.as_bytes())?)?;
        json_patch::patch(object, &patch)?;
    }
    Ok(None)
}

/// Asks the service that a configuration names, where it was said to be, by the authority that stands there.
async fn ask(shared: &Shared, client: &Value, review: &Value) -> Result<Value, Failure> {
    let part = |field: &str| client["service"][field].as_str().unwrap_or_default();
    let (namespace, name, path) = (part("namespace"), part("name"), part("path"));
    let known = shared.services.lock().unwrap().get(&format!("{namespace}/{name}")).copied();
    let address = known.ok_or_else(|| format!("service \"{name}\" not found"))?;
    let mut roots = RootCertStore::empty();
    let bundle = data_encoding::BASE64.decode(client["caBundle"].as_str().unwrap_or_default().as_bytes())?;
    for certificate in CertificateDer::pem_slice_iter(&bundle) {
        roots.add(certificate?)?;
    }
    let connector = tokio_rustls::TlsConnector::from(Arc::new(wire::tls::web_client_config(roots)));
    let host = format!("{name}.{namespace}.svc");
    let stream = connector.connect(ServerName::try_from(host.clone())?, TcpStream::connect(address).await?).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::post(format!("{path}?timeout=10s")).header("host", host);
    let request =
        request.header("content-type", "application/json").body(Full::new(Bytes::from(review.to_string())))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        return Err(format!("the webhook answered {status}: {}", String::from_utf8_lossy(&body)).into());
    }
    Ok(serde_json::from_slice(&body)?)
}

/// Decides by a label selector as objects have it; one that is empty selects everything.
fn selects(selector: &Value, labels: &Value) -> bool {
    let exact = selector["matchLabels"].as_object().into_iter().flatten();
    let mut terms: Vec<String> = exact.map(|(name, value)| format!("{name}={}", value.as_str().unwrap())).collect();
    for one in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = one["key"].as_str().unwrap();
        let values = one["values"].as_array().into_iter().flatten().map(|value| value.as_str().unwrap());
        match one["operator"].as_str() {
            Some("NotIn") => terms.extend(values.map(|value| format!("{key}!={value}"))),
            // Of one value, as all of weft's are.
            Some("In") => terms.extend(values.map(|value| format!("{key}={value}"))),
            other => panic!("nobody here knows the operator {other:?}"),
        }
    }
    terms.iter().all(|term| fits(term, |label| labels.get(label)))
}

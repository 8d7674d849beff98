//! Listening, reading requests and answering them.

use std::{collections::BTreeMap, convert::Infallible, io, net::SocketAddr, sync::Arc, sync::mpsc};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Frame, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{
    Deed, Shared,
    store::{ObjectKey, Refused, Store, not_found},
    watching, webhooks,
};

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The largest body that a real server takes.
const BODY_MAX: usize = 3 * 1024 * 1024;

pub(super) async fn serve(
    shared: Arc<Shared>,
    tls: Arc<ServerConfig>,
    address: SocketAddr,
    bound: mpsc::Sender<SocketAddr>,
    mut stopped: watch::Receiver<bool>,
) {
    let listener = TcpListener::bind(address).await.unwrap_or_else(|error| panic!("listening on {address}: {error}"));
    bound.send(listener.local_addr().unwrap()).unwrap();
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((tcp, _)) = accepted else { continue };
                let (shared, acceptor) = (Arc::clone(&shared), acceptor.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                    let known = shown.and_then(|der| shared.certificates.lock().unwrap().get(der.as_ref()).cloned());
                    let service = service_fn(|request| answer(Arc::clone(&shared), known.clone(), request));
                    let _closed = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        }
    }
    connections.shutdown().await;
}

/// Answers a request, unless something is to happen to it.
async fn answer(
    shared: Arc<Shared>,
    known: Option<String>,
    request: Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let line = format!("{} {}", request.method(), request.uri());
    let deed = shared.take(&line);
    match &deed {
        Some(Deed::Answer(status, Some(body))) => return Ok(json_answer(*status, body)),
        Some(Deed::Answer(status, None)) => return Ok(refusal(&(*status, "InternalError", "as planned".to_owned()))),
        Some(Deed::Hold) => shared.release.notified().await,
        _ => {}
    }
    let response = handle(&shared, known, request).await.unwrap_or_else(|refused| refusal(&refused));
    let broken = || io::Error::from(io::ErrorKind::ConnectionReset);
    match deed {
        Some(Deed::Lose) => Err(broken()),
        Some(Deed::Cut) => {
            let (head, body) = response.into_parts();
            let whole = body.collect().await?.to_bytes();
            let half = Ok(Frame::data(whole.slice(..whole.len() / 2)));
            let body = StreamBody::new(stream::iter([half, Err(broken())]));
            Ok(Response::from_parts(head, BodyExt::boxed_unsync(body)))
        }
        _ => Ok(response),
    }
}

/// Is a request, read.
pub(super) struct Asked {
    pub(super) user: String,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) key: ObjectKey,
    verb: &'static str,
    part: String,
    query: BTreeMap<String, String>,
    content_type: String,
    body: Value,
}

impl Asked {
    pub(super) fn says(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Reports whether an object of the resource is asked for.
    pub(super) fn selects(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let field = |path: &str| object.pointer(&format!("/{}", path.replace('.', "/")));
        (self.key.namespace.is_empty() || metadata["namespace"] == self.key.namespace)
            && (self.key.name.is_empty() || metadata["name"] == self.key.name)
            && self.says("fieldSelector").split(',').all(|term| fits(term, field))
            && self.says("labelSelector").split(',').all(|term| fits(term, |label| metadata["labels"].get(label)))
    }
}

/// Decides one term of a selector: `a=b`, `a!=b`, `a` or `!a`.
fn fits<'a>(term: &str, value: impl Fn(&str) -> Option<&'a Value>) -> bool {
    if term.is_empty() {
        true
    } else if let Some((name, unwanted)) = term.split_once("!=") {
        value(name).is_none_or(|found| found != unwanted)
    } else if let Some((name, wanted)) = term.split_once('=') {
        value(name).is_some_and(|found| found == wanted.trim_start_matches('='))
    } else if let Some(name) = term.strip_prefix('!') {
        value(name).is_none()
    } else {
        value(term).is_some()
    }
}

async fn handle(
    shared: &Arc<Shared>,
    known: Option<String>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    match path.as_str() {
        "/readyz" | "/livez" => return Ok(json_answer(200, &json!("ok"))),
        "/version" => return Ok(json_answer(200, &json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0"}))),
        _ => {}
    }
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = header("authorization").strip_prefix("Bearer ");
    let by_token = || shared.tokens.user(&shared.store.lock().unwrap(), token?);
    let user = known.or_else(by_token).ok_or((401, "Unauthorized", "Unauthorized".to_owned()))?;
    let body = body.collect().await.map_err(|error| (400, "BadRequest", error.to_string()))?.to_bytes();
    if body.len() > BODY_MAX {
        return Err((413, "RequestEntityTooLarge", "the body is too large".to_owned()));
    }
    let text: &[u8] = if body.is_empty() { b"null" } else { &body };
    let body = serde_json::from_slice(text).map_err(|error| (400, "BadRequest", error.to_string()))?;
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(not_found("path", &path)),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() && *rest != ["status"] => (*namespace, rest),
        _ => ("", rest),
    };
    let (plural, name, part) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, part] => (*plural, *name, *part),
        _ => return Err(not_found("path", &path)),
    };
    let resource = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    // Groups of others are there only where a definition says so.
    let is_built_in = !group.contains('.') || group.ends_with(".k8s.io");
    if !is_built_in {
        shared.store.lock().unwrap().get("customresourcedefinitions.apiextensions.k8s.io", "", &resource)?;
    }
    let query = head.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let query: BTreeMap<String, String> = query.map(|(name, value)| (name.to_owned(), unescape(value))).collect();
    let is_watch = query.get("watch").is_some_and(|value| value == "true" || value == "1");
    let verb = match head.method {
        Method::GET if is_watch => "watch",
        Method::GET if name.is_empty() => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        _ => "delete",
    };
    let slash = if part.is_empty() { "" } else { "/" };
    shared.seen.lock().unwrap().push((user.clone(), format!("{verb} {resource}{slash}{part}")));
    let content_type = header("content-type").split(';').next().unwrap_or_default().to_owned();
    let key = ObjectKey { resource, namespace: namespace.to_owned(), name: name.to_owned() };
    let (group, version, part) = (group.to_owned(), version.to_owned(), part.to_owned());
    carry_out(shared, Asked { user, group, version, key, verb, part, query, content_type, body }).await
}

async fn carry_out(shared: &Arc<Shared>, asked: Asked) -> Result<Response<Body>, Refused> {
    let key = &asked.key;
    match (asked.verb, asked.part.as_str()) {
        ("create", "") if key.resource == "tokenreviews.authentication.k8s.io" => {
            Ok(json_answer(201, &shared.tokens.review(&shared.store.lock().unwrap(), &asked.body)))
        }
        ("create", "token") => {
            let store = shared.store.lock().unwrap();
            let granted = shared.tokens.grant(&store, &key.namespace, &key.name, &asked.body["spec"])?;
            Ok(json_answer(201, &granted))
        }
        ("watch", "") => Ok(watching::start(shared, asked)),
        ("list", "") => list(shared, &asked).map(|list| json_answer(200, &list)),
        ("get", "" | "status") => {
            let store = shared.store.lock().unwrap();
            store.get(&key.resource, &key.namespace, &key.name).map(|object| json_answer(200, object))
        }
        ("create", "") => {
            let object = webhooks::admit(shared, &asked, "CREATE", asked.body.clone(), None).await?;
            write(shared, |store| store.create(key.clone(), object)).map(|made| json_answer(201, &made))
        }
        ("update", "" | "status") => update(shared, &asked, asked.body.clone()).await,
        ("patch", "" | "status") => {
            let mut object = shared.store.lock().unwrap().get(&key.resource, &key.namespace, &key.name)?.clone();
            let wrong = |error: &dyn std::fmt::Display| (422, "Invalid", error.to_string());
            match asked.content_type.as_str() {
                "application/merge-patch+json" => json_patch::merge(&mut object, &asked.body),
                "application/json-patch+json" => {
                    let patch: json_patch::Patch =
                        serde_json::from_value(asked.body.clone()).map_err(|error| wrong(&error))?;
                    json_patch::patch(&mut object, &patch).map_err(|error| wrong(&error))?;
                }
                other => return Err((415, "UnsupportedMediaType", format!("nobody here reads {other}"))),
            }
            update(shared, &asked, object).await
        }
        ("delete", "") => write(shared, |store| store.delete(key, &asked.body)).map(|gone| json_answer(200, &gone)),
        (verb, part) => Err((405, "MethodNotAllowed", format!("{verb} {}/{part}", key.resource))),
    }
}

async fn update(shared: &Shared, asked: &Asked, mut object: Value) -> Result<Response<Body>, Refused> {
    let (key, is_status) = (&asked.key, asked.part == "status");
    if !is_status {
        let before = shared.store.lock().unwrap().get(&key.resource, &key.namespace, &key.name).ok().cloned();
        object = webhooks::admit(shared, asked, "UPDATE", object, before).await?;
    }
    write(shared, |store| store.update(key, object, is_status)).map(|made| json_answer(200, &made))
}

fn write<T>(shared: &Shared, change: impl FnOnce(&mut Store) -> Result<T, Refused>) -> Result<T, Refused> {
    let mut store = shared.store.lock().unwrap();
    let made = change(&mut store);
    shared.changed.send_replace(store.version);
    made
}

/// Answers with a list, or a page of one; the pages after the first are of the version that the first is of.
fn list(shared: &Shared, asked: &Asked) -> Result<Value, Refused> {
    let mut store = shared.store.lock().unwrap();
    let (version, mut items) = match asked.says("continue") {
        "" => {
            let found = store.list(&asked.key.resource).filter(|object| asked.selects(object)).cloned();
            (store.version, found.collect())
        }
        token => store.pages.remove(token).ok_or((410, "Expired", "the continue parameter is too old".to_owned()))?,
    };
    let limit = asked.says("limit").parse().ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let rest = items.split_off(limit.min(items.len()));
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if !rest.is_empty() {
        let token = format!("{:032x}", u128::from_be_bytes(wire::crypto::random()));
        metadata["continue"] = json!(token);
        store.pages.insert(token, (version, rest));
    }
    Ok(json!({"apiVersion": asked.api_version(), "kind": "List", "metadata": metadata, "items": items}))
}

pub(super) fn status((code, reason, message): &Refused) -> Value {
    let (version, kind) = ("v1", "Status");
    json!({
        "apiVersion": version, "kind": kind, "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

fn refusal(refused: &Refused) -> Response<Body> {
    json_answer(refused.0, &status(refused))
}

fn json_answer(status: u16, body: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

fn unescape(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().replace('+', " ").into_bytes();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).unwrap_or(("3f", ""));
        bytes.push(u8::from_str_radix(digits, 16).unwrap_or(b'?'));
        bytes.extend(rest.replace('+', " ").bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

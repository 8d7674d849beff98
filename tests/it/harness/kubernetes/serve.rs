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
use tokio::{net::TcpListener, net::TcpSocket, sync::watch, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use super::store::{ObjectKey, Refused, not_found};
use super::{Deed, Shared, watching, webhooks};

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(super) async fn serve(
    shared: Arc<Shared>,
    tls: ServerConfig,
    address: SocketAddr,
    bound: mpsc::Sender<TcpSocket>,
    mut stopped: watch::Receiver<bool>,
) {
    // A socket that never listens keeps the port while the server is down.
    let held = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    held.set_reuseaddr(true).unwrap();
    held.bind(address).unwrap_or_else(|error| panic!("binding {address}: {error}"));
    let listener = TcpListener::bind(held.local_addr().unwrap()).await.unwrap();
    bound.send(held).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
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
async fn answer(shared: Arc<Shared>, known: Option<String>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let deed = shared.take(&format!("{} {}", request.method(), request.uri()));
    if let Some(Deed::Answer(code, body)) = deed {
        let planned = || status(&(code, "InternalError", "as planned".to_owned()));
        return Ok(json_answer(code, &body.unwrap_or_else(planned)));
    }
    let response = match handle(&shared, known, request).await {
        Ok(response) => response,
        Err(refused) => json_answer(refused.0, &status(&refused)),
    };
    let broken = || io::Error::from(io::ErrorKind::ConnectionReset);
    match deed {
        Some(Deed::Lose) => Err(broken()),
        Some(Deed::Cut) => {
            let (head, body) = response.into_parts();
            let whole = body.collect().await?.to_bytes();
            let half = Ok(Frame::data(whole.slice(..whole.len() / 2)));
            Ok(Response::from_parts(head, BodyExt::boxed_unsync(StreamBody::new(stream::iter([half, Err(broken())])))))
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
    body: Value,
}

impl Asked {
    pub(super) fn says(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
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
pub(super) fn fits<'a>(term: &str, value: impl Fn(&str) -> Option<&'a Value>) -> bool {
    match (term.split_once("!="), term.split_once('='), term.strip_prefix('!')) {
        _ if term.is_empty() => true,
        (Some((name, unwanted)), ..) => value(name).is_none_or(|found| found != unwanted),
        (_, Some((name, wanted)), _) => value(name).is_some_and(|found| found == wanted.trim_start_matches('=')),
        (.., Some(name)) => value(name).is_none(),
        _ => value(term).is_some(),
    }
}

async fn handle(
    shared: &Arc<Shared>,
    known: Option<String>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let by_token = || shared.tokens.user(&shared.store(), header("authorization").strip_prefix("Bearer ")?);
    let user = known.or_else(by_token).ok_or((401, "Unauthorized", "Unauthorized".to_owned()))?;
    let wrong = |error: &dyn std::fmt::Display| (400, "BadRequest", error.to_string());
    let body = body.collect().await.map_err(|error| wrong(&error))?.to_bytes();
    let body =
        if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).map_err(|error| wrong(&error))? };
    let parts: Vec<&str> = head.uri.path().split('/').skip(1).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(not_found("path", head.uri.path())),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        _ => ("", rest),
    };
    let [plural, name, part] = [0, 1, 2].map(|at| rest.get(at).copied().unwrap_or_default());
    let resource = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    // Groups of others are there only where a definition says so.
    if group.contains('.') && !group.ends_with(".k8s.io") {
        shared.store().get("customresourcedefinitions.apiextensions.k8s.io", "", &resource)?;
    }
    let query = form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned();
    let query: BTreeMap<String, String> = query.collect();
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
    if verb == "patch" && header("content-type") != "application/merge-patch+json" {
        return Err((415, "UnsupportedMediaType", "nobody here reads other patches than merge patches".to_owned()));
    }
    let key = ObjectKey { resource, namespace: namespace.to_owned(), name: name.to_owned() };
    let (group, version, part) = (group.to_owned(), version.to_owned(), part.to_owned());
    carry_out(shared, Asked { user, group, version, key, verb, part, query, body }).await
}

async fn carry_out(shared: &Arc<Shared>, asked: Asked) -> Result<Response<Body>, Refused> {
    let ObjectKey { resource, namespace, name } = &asked.key;
    let (code, made) = match (asked.verb, asked.part.as_str()) {
        ("create", "") if resource == "tokenreviews.authentication.k8s.io" => {
            (201, shared.tokens.review(&shared.store(), &asked.body))
        }
        ("create", "token") => (201, shared.tokens.grant(&shared.store(), namespace, name, &asked.body["spec"])?),
        ("watch", "") => return Ok(watching::start(shared, asked)),
        ("list", "") => (200, list(shared, &asked)?),
        ("get", "" | "status") => (200, shared.store().get(resource, namespace, name)?.clone()),
        ("create", "") => {
            let object = webhooks::admit(shared, &asked, asked.body.clone()).await?;
            (201, shared.write(|store| store.create(asked.key.clone(), object))?)
        }
        ("update" | "patch", part @ ("" | "status")) => {
            let mut object = asked.body.clone();
            if asked.verb == "patch" {
                object = shared.store().get(resource, namespace, name)?.clone();
                json_patch::merge(&mut object, &asked.body);
            }
            (200, shared.write(|store| store.update(&asked.key, object, part == "status"))?)
        }
        ("delete", "") => (200, shared.write(|store| store.remove(&asked.key))?),
        (verb, part) => return Err((405, "MethodNotAllowed", format!("{verb} {resource}/{part}"))),
    };
    Ok(json_answer(code, &made))
}

/// Answers with a list, or a page of one; the pages after the first are of the version that the first is of.
fn list(shared: &Shared, asked: &Asked) -> Result<Value, Refused> {
    let mut store = shared.store();
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
        let token = wire::crypto::random_hex(16);
        metadata["continue"] = json!(token);
        store.pages.insert(token, (version, rest));
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items}))
}

pub(super) fn status((code, reason, message): &Refused) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "metadata": {},
        "code": code, "reason": reason, "message": message})
}

fn json_answer(status: u16, body: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

//! The servers' API, as a connector calls it: several addresses, and a token that may change.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use catalog::{ConnectorChange, ConnectorName, RefusedWrite, RequestId};
use wire::{
    api_types::{ConnectorAnswer, ConnectorNodeView, ConnectorRequest, ConnectorView},
    client::{ApiClient, ApiError},
    crypto::{Secret, SecretFileError, read_secret_file},
    one_line,
};

use crate::keeper::Answer;

/// No token is longer.
const TOKEN_BYTES_MAX: u64 = 1024;

/// Says where the API is and as whom to call it.
#[derive(Debug, Clone)]
pub struct Access {
    /// The addresses; the first one that answers is used until it does not.
    pub addresses: Vec<String>,
    /// The token itself.
    pub token: Option<Secret>,
    /// The file that holds the token, read anew where the servers refuse the one that was read; in place of the token.
    pub token_file: Option<PathBuf>,
    /// The authority to trust where an address is https.
    pub cacert: Option<PathBuf>,
}

/// Explains why nothing can be asked of the servers.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// There is no address.
    #[error("the connector is told no address of the API")]
    NoAddress,
    /// The token cannot be read.
    #[error("cannot read the token to call the API with")]
    Token(#[source] SecretFileError),
    /// The client cannot be made.
    #[error(transparent)]
    Client(ApiError),
}

/// Calls the servers.
#[derive(Debug, Clone)]
pub struct Servers {
    access: Arc<Access>,
    clients: Arc<Mutex<Clients>>,
}

#[derive(Debug)]
struct Clients {
    all: Vec<ApiClient>,
    current: usize,
    /// The token that they send.
    token: Option<Secret>,
}

impl Servers {
    /// Reads the token and prepares calls. Nothing is sent.
    ///
    /// # Errors
    /// [`AccessError`] where it cannot be read, or an address is none.
    pub fn new(access: Access) -> Result<Self, AccessError> {
        let token = token(&access)?;
        let clients = Clients { all: clients(&access, token.as_ref())?, current: 0, token };
        Ok(Self { access: Arc::new(access), clients: Arc::new(Mutex::new(clients)) })
    }

    /// Returns the client of the server that answered last.
    #[must_use]
    pub fn client(&self) -> ApiClient {
        let clients = self.lock();
        clients.all[clients.current].clone()
    }

    /// Asks the next server from now on, with the token and the authority as their files have them now.
    pub fn turn_away(&self) {
        match token(&self.access) {
            Ok(token) => self.prepare(token),
            Err(error) => tracing::warn!(error = one_line(&error), "the token was not read again"),
        }
        let mut clients = self.lock();
        clients.current = (clients.current + 1) % clients.all.len();
    }

    /// Sends the token as its file has it now. Where that is the one that was sent, nothing is prepared anew.
    fn take_new_token(&self) {
        let is_known = |token: &Option<Secret>| {
            self.lock().token.as_ref().map(Secret::expose) == token.as_ref().map(Secret::expose)
        };
        match token(&self.access) {
            Ok(token) if is_known(&token) => {}
            Ok(token) => self.prepare(token),
            Err(error) => tracing::warn!(error = one_line(&error), "the token was not read again"),
        }
    }

    fn prepare(&self, token: Option<Secret>) {
        match clients(&self.access, token.as_ref()) {
            Ok(all) => {
                let mut clients = self.lock();
                (clients.all, clients.token) = (all, token);
            }
            Err(error) => tracing::warn!(error = one_line(&error), "calls were not prepared anew"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Clients> {
        // Every step leaves a list with a place in it, so that a panic elsewhere does not spoil it.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a change. A repeat is another request: whatever the first did, the answer tells how things stand.
    pub(crate) async fn change(&self, change: &ConnectorChange, timeout: Duration) -> Answer {
        let (client, id) = (self.client(), request_id());
        let call = async {
            client
                .put("/v1/connector")
                .timeout(timeout)
                .request_id(id)
                .body(&ConnectorRequest(change.clone()))?
                .json::<ConnectorAnswer>()
                .await
        };
        match call.await {
            Ok(ConnectorAnswer { term: Some(term), .. }) => Answer::Granted(term),
            Ok(answer) if matches!(change, ConnectorChange::Write { .. }) => {
                Answer::Written(answer.refused.into_iter().map(RefusedWrite::from).collect())
            }
            Ok(_) => Answer::Released,
            Err(error) => self.failed(&error),
        }
    }

    /// Asks what the connector keeps.
    pub(crate) async fn kept(&self, name: &ConnectorName, timeout: Duration) -> Answer {
        let client = self.client();
        let nodes = client.get("/v1/connector").segment(name).segment("nodes").timeout(timeout).json();
        let nodes: Vec<ConnectorNodeView> = match nodes.await {
            Ok(nodes) => nodes,
            Err(error) => return self.failed(&error),
        };
        let nodes = nodes.into_iter().map(ConnectorNodeView::into_node).collect();
        match client.get("/v1/connectors").timeout(timeout).json::<Vec<ConnectorView>>().await {
            Ok(views) => {
                Answer::Kept(nodes, views.into_iter().find(|view| view.name == *name).and_then(|it| it.confirmed))
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &ApiError) -> Answer {
        let reason = one_line(error);
        match error.status().map(|status| status.as_u16()) {
            Some(409) => Answer::Elsewhere(reason),
            Some(400 | 413) => Answer::Refused(reason),
            Some(403) => {
                // The token may have been replaced.
                self.take_new_token();
                Answer::Refused(reason)
            }
            _ => {
                self.turn_away();
                Answer::Failed(reason)
            }
        }
    }
}

fn token(access: &Access) -> Result<Option<Secret>, AccessError> {
    let Some(path) = &access.token_file else { return Ok(access.token.clone()) };
    let token = read_secret_file(path, TOKEN_BYTES_MAX).map_err(AccessError::Token)?;
    Ok(Some(Secret::new(token.expose().trim())))
}

fn clients(access: &Access, token: Option<&Secret>) -> Result<Vec<ApiClient>, AccessError> {
    let client = |address: &String| {
        let client = ApiClient::new(address)?;
        let client = token.into_iter().cloned().fold(client, ApiClient::with_token);
        access.cacert.iter().try_fold(client, |client, path| client.with_ca_file(path))
    };
    let all: Vec<ApiClient> =
        access.addresses.iter().map(client).collect::<Result<_, _>>().map_err(AccessError::Client)?;
    if all.is_empty() { Err(AccessError::NoAddress) } else { Ok(all) }
}

fn request_id() -> RequestId {
    wire::crypto::uuid_v4().parse().expect("a UUID is a request id: 36 letters, digits and hyphens")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn a_new_token_is_taken_and_the_same_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let write = |text: &str| {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        };
        write("one");
        let addresses = vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()];
        let servers =
            Servers::new(Access { addresses, token: None, token_file: Some(path.clone()), cacert: None }).unwrap();
        let sent = || servers.lock().token.as_ref().map(|token| token.expose().to_owned());
        let place = || servers.lock().current;
        servers.take_new_token();
        assert_eq!((sent().as_deref(), place()), (Some("one"), 0), "and the same server is asked");
        write("two\n");
        servers.take_new_token();
        assert_eq!((sent().as_deref(), place()), (Some("two"), 0));
        std::fs::remove_file(&path).unwrap();
        servers.turn_away();
        assert_eq!((sent().as_deref(), place()), (Some("two"), 1), "the last one that could be read is sent on");
    }
}

//! What the local API and a stopping agent ask of the core.

use catalog::{CheckId, CheckKey, CheckStatus, InstanceId, Namespace, ServiceKey};
use serde_json::Value;
use tokio::sync::oneshot;
use wire::agent_protocol::Subject;

use super::Core;
use crate::checks::{Probe, truncated};
use crate::leaf::HeldLeaf;
use crate::local::{LocalError, Registered, read_files};
use crate::sync::Input;

type Reply = oneshot::Sender<Result<(), LocalError>>;

/// A request, and where its answer goes.
#[derive(Debug)]
pub(crate) enum Request {
    /// Registers a service, by the body of the API.
    RegisterService(Value, Reply),
    /// Removes a service that was registered over the API.
    DeregisterService(Namespace, InstanceId, Reply),
    /// Registers a check, by the body of the API.
    RegisterCheck(Value, Reply),
    /// Removes a check that was registered over the API.
    DeregisterCheck(Namespace, CheckId, Reply),
    /// Reports how a TTL check is.
    Report { namespace: Namespace, id: CheckId, status: CheckStatus, output: String, reply: Reply },
    /// Puts a service into maintenance, or takes it out.
    Maintain { namespace: Namespace, id: InstanceId, reason: Option<String>, reply: Reply },
    /// Puts the whole node into maintenance, or takes it out.
    MaintainNode { reason: Option<String>, reply: Reply },
    /// Reads the files of definitions again.
    Reload(Reply),
    /// Hands out the leaf of a service, which may not be there yet.
    Leaf(ServiceKey, oneshot::Sender<Option<HeldLeaf>>),
    /// Takes the node out of the catalog and answers when it is gone.
    Leave(oneshot::Sender<()>),
}

impl Core {
    pub(super) async fn request(&mut self, request: Request) {
        match request {
            Request::RegisterService(body, reply) => {
                self.alter(reply, |core| core.local.register_service(body)).await;
            }
            Request::DeregisterService(namespace, id, reply) => {
                self.alter(reply, |core| core.local.deregister_service(&namespace, &id)).await;
            }
            Request::RegisterCheck(body, reply) => self.alter(reply, |core| core.local.register_check(body)).await,
            Request::DeregisterCheck(namespace, id, reply) => {
                self.alter(reply, |core| core.local.deregister_check(&namespace, &id)).await;
            }
            Request::Maintain { namespace, id, reason, reply } => {
                self.alter(reply, |core| core.local.set_maintenance(&namespace, &id, reason)).await;
            }
            Request::MaintainNode { reason, reply } => {
                self.alter(reply, |core| core.local.set_node_maintenance(reason)).await;
            }
            Request::Reload(reply) => self.reload(reply).await,
            Request::Leaf(service, reply) => {
                let leaf = self.leaves.held().get(&Subject::Service(service)).cloned();
                let _ = reply.send(leaf);
            }
            Request::Report { namespace, id, status, output, reply } => {
                // Whoever asked may have gone; there is nobody to tell then.
                let _ = reply.send(self.report(namespace, id, status, output));
            }
            Request::Leave(reply) => {
                if self.has_left {
                    let _ = reply.send(());
                } else {
                    self.leavers.push(reply);
                    self.step(Input::Leave);
                }
            }
        }
    }

    /// Changes what is registered, keeps it, and only then says that it is done.
    async fn alter(&mut self, reply: Reply, change: impl FnOnce(&mut Self) -> Result<(), LocalError>) {
        let before = self.local.clone();
        let mut result = change(self);
        if result.is_ok() {
            result = self.keep(self.local.registered()).await;
        }
        if result.is_ok() {
            self.follow_local();
            // Whoever is told may call at once.
            self.publish();
        } else {
            self.local = before;
        }
        let _ = reply.send(result);
    }

    /// Takes what the files say now; where that is refused, what they said before stays in force.
    async fn reload(&mut self, reply: Reply) {
        let paths = self.config.services.clone();
        match tokio::task::spawn_blocking(move || read_files(&paths)).await {
            Ok(Ok(definitions)) => {
                tracing::info!(definitions = definitions.len(), "service definitions read again");
                self.alter(reply, |core| core.local.reload_files(definitions)).await;
            }
            Ok(Err(error)) => {
                let _ = reply.send(Err(error));
            }
            Err(panicked) => {
                let _ = reply.send(Err(LocalError::Definition { reason: panicked.to_string() }));
            }
        }
    }

    async fn keep(&self, registered: Registered) -> Result<(), LocalError> {
        let (store, agent) = (self.store.clone(), self.identity.record.id.clone());
        match tokio::task::spawn_blocking(move || store.keep_registered(&agent, &registered)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(LocalError::Keep { source: Box::new(source) }),
            Err(panicked) => Err(LocalError::Definition { reason: panicked.to_string() }),
        }
    }

    fn report(
        &mut self,
        namespace: Namespace,
        id: CheckId,
        status: CheckStatus,
        output: String,
    ) -> Result<(), LocalError> {
        let key = CheckKey { node: self.local.node().clone(), namespace, id: id.clone() };
        match self.local.checks().get(&key).map(|check| &check.probe) {
            None => Err(LocalError::UnknownCheck { id }),
            Some(Probe::Ttl(_)) => {
                self.checks.reported(&key);
                self.check_result(crate::checks::CheckResult { key, status, output: truncated(output) });
                Ok(())
            }
            Some(_) => Err(LocalError::NotTtl { id }),
        }
    }
}

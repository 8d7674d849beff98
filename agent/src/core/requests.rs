//! What the local API and a stopping agent ask of the core.

use catalog::{CheckId, CheckKey, CheckStatus, InstanceId, Namespace, ServiceKey};
use serde_json::Value;
use tokio::sync::oneshot;
use wire::agent_protocol::Subject;
use wire::surroundings::Observed;

use super::Core;
use super::registering::Reply;
use super::sought::Sought;
use crate::bypass::Bypassable;
use crate::checks::{Probe, truncated};
use crate::leaf::HeldLeaf;
use crate::local::LocalError;
use crate::sync::Input;

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
    /// Takes in which instances can be called past the agent.
    Bypassable(Bypassable),
    /// Takes in what the platform says.
    Observed(Observed),
    /// Follows what an application asks for by name.
    Seek(Sought),
    /// Takes the node out of the catalog and answers when it is gone.
    Leave(oneshot::Sender<()>),
}

impl Core {
    pub(super) fn request(&mut self, request: Request) {
        match request {
            Request::RegisterService(body, reply) => {
                self.alter(reply, |local| local.register_service(body));
            }
            Request::DeregisterService(namespace, id, reply) => {
                self.alter(reply, move |local| local.deregister_service(&namespace, &id));
            }
            Request::RegisterCheck(body, reply) => self.alter(reply, |local| local.register_check(body)),
            Request::DeregisterCheck(namespace, id, reply) => {
                self.alter(reply, move |local| local.deregister_check(&namespace, &id));
            }
            Request::Maintain { namespace, id, reason, reply } => {
                self.alter(reply, move |local| local.set_maintenance(&namespace, &id, reason));
            }
            Request::MaintainNode { reason, reply } => {
                self.alter(reply, |local| local.set_node_maintenance(reason));
            }
            Request::Reload(reply) => self.reload(reply),
            Request::Leaf(service, reply) => {
                let leaf = self.leaves.held().get(&Subject::Service(service)).cloned();
                let _ = reply.send(leaf);
            }
            Request::Report { namespace, id, status, output, reply } => {
                // Whoever asked may have gone; there is nobody to tell then.
                let _ = reply.send(self.report(namespace, id, status, output));
            }
            Request::Bypassable(found) => {
                self.bypassable = found;
                self.changed = true;
            }
            Request::Observed(observed) => self.observed(&observed),
            Request::Seek(sought) => self.seek(sought),
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

    /// Has the catalog say what the platform does.
    fn observed(&mut self, observed: &Observed) {
        if self.local.observe(observed) {
            self.follow_local();
            self.changed = true;
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

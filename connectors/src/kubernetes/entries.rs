//! Writing what custom resources ask for, and telling them what became of it.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{ConnectorProblem, ProblemKind};
use kube::api::{Api, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tracing::{info, warn};
use wire::client::ApiError;

use super::mirror::{Mirror, ObjectName};
use super::resources::{
    Actual, DEFAULTS, DocumentKey, Documents, EntryWrite, INTENTIONS, Removals, ResourceStatus, ServiceDefaults,
    ServiceIntentions, Verdict, owner_of, plan,
};
use crate::plan::Caution;
use crate::shell::Post;

/// The largest listing of config entries.
const LISTING_BYTES_MAX: usize = 64 * 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(20);

/// Keeps config entries in step with resources.
pub(super) struct Entries {
    post: Post,
    client: Client,
    caution: Caution,
    problems: Vec<ConnectorProblem>,
}

type Verdicts = BTreeMap<(&'static str, ObjectName), Verdict>;

impl Entries {
    pub(super) fn new(post: Post, client: Client, caution: Caution) -> Self {
        Self { post, client, caution, problems: Vec::new() }
    }

    /// Returns what keeps entries from being in step.
    pub(super) fn problems(&self) -> impl Iterator<Item = ConnectorProblem> {
        self.problems.iter().cloned()
    }

    /// Writes what is missing, removes what nobody asks for, and tells each resource. Reports whether all of that was done.
    pub(super) async fn sync(
        &mut self,
        intentions: &Mirror<ServiceIntentions>,
        defaults: &Mirror<ServiceDefaults>,
    ) -> bool {
        let documents = Documents::read(self.post.name.as_str(), intentions, defaults);
        self.problems.clear();
        let actual = match self.read().await {
            Ok(actual) => actual,
            Err(reason) => {
                warn!(error = reason, "what the mesh says is not known");
                self.problem(ProblemKind::Degraded, "config entries", reason);
                return false;
            }
        };
        let all_seen = intentions.is_complete() && defaults.is_complete();
        let removals = Removals { all_seen, caution: self.caution };
        let mut planned = plan(self.post.name.as_str(), &documents, &actual, removals);
        if planned.held > 0 {
            let reason = "their resources are gone, and so many at once may be a mistake: \
                          run the connector with --removals-max 1 to let them go";
            self.problem(ProblemKind::Held, &format!("{} config entries", planned.held), reason.to_owned());
        }
        let mut is_done = true;
        for write in planned.writes {
            is_done &= self.carry_out(&documents, write, &mut planned.verdicts).await;
        }
        for ((kind, name), verdict) in &planned.verdicts {
            let sort = match verdict {
                Verdict::Synced => continue,
                Verdict::Conflicting(_) => ProblemKind::Conflict,
                Verdict::Refused(_) => ProblemKind::Refused,
                Verdict::Waiting(_) => ProblemKind::Degraded,
            };
            self.problem(sort, &format!("{kind} of {name}"), verdict.message().to_owned());
        }
        is_done &= self.tell(intentions, INTENTIONS, &planned.verdicts).await;
        is_done &= self.tell(defaults, DEFAULTS, &planned.verdicts).await;
        is_done
    }

    fn problem(&mut self, kind: ProblemKind, subject: &str, reason: String) {
        self.problems.push(ConnectorProblem { kind, subject: subject.to_owned(), reason });
    }

    async fn read(&self) -> Result<Actual, String> {
        let mut listed: Vec<Value> = Vec::new();
        for kind in [INTENTIONS, DEFAULTS] {
            let client = self.post.servers.client();
            let call = client.get("/v1/config").segment(kind).query("ns", "*");
            match call.timeout(TIMEOUT).answer_bytes_max(LISTING_BYTES_MAX).json::<Vec<Value>>().await {
                Ok(entries) => listed.extend(entries),
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Actual::read(listed)
    }

    fn failed(&self, error: &ApiError) -> String {
        // Another server may know more, and the token may have been replaced.
        self.post.servers.turn_away();
        wire::one_line(error)
    }

    /// Does one write, and notes what became of it. Reports whether it was done, or refused for good.
    async fn carry_out(&self, documents: &Documents, write: EntryWrite, verdicts: &mut Verdicts) -> bool {
        let client = self.post.servers.client();
        let (key, written) = match write {
            EntryWrite::Put { key, body, compare } => {
                let index = compare.0.to_string();
                let call = client.put("/v1/config").query("cas", &index).timeout(TIMEOUT).body(&body);
                let written = match call {
                    Ok(call) => call.json::<bool>().await,
                    Err(error) => Err(error),
                };
                (key, written)
            }
            EntryWrite::Delete { key, compare } => {
                let index = compare.0.to_string();
                let owner = owner_of(self.post.name.as_str());
                let mut call = client.delete("/v1/config").segment(key.kind).segment(&key.name);
                call = call.query("ns", &key.namespace).query("cas", &index).timeout(TIMEOUT);
                if key.kind == INTENTIONS {
                    call = call.query("owner", owner.as_str());
                }
                (key, call.json::<bool>().await)
            }
        };
        let (verdict, is_done) = self.judge(&key, written);
        if let Some(document) = documents.wanted.get(&key) {
            verdicts.insert((key.kind, document.resource.clone()), verdict);
        }
        is_done
    }

    fn judge(&self, key: &DocumentKey, written: Result<bool, ApiError>) -> (Verdict, bool) {
        match written {
            Ok(true) => {
                info!(entry = %key, "a config entry is in step with its resource");
                (Verdict::Synced, true)
            }
            Ok(false) => (Verdict::Waiting("somebody changed it meanwhile; it is tried again".to_owned()), false),
            Err(error) => {
                let reason = wire::one_line(&error);
                warn!(entry = %key, error = reason, "a config entry cannot be written");
                match error.status().map(|status| status.as_u16()) {
                    Some(400 | 409 | 413 | 422) => (Verdict::Refused(reason), true),
                    _ => (Verdict::Waiting(self.failed(&error)), false),
                }
            }
        }
    }

    /// Tells the resources of one kind what became of them, where they do not say so already.
    async fn tell<K>(&self, mirror: &Mirror<K>, kind: &'static str, verdicts: &Verdicts) -> bool
    where
        K: Resource<Scope = NamespaceResourceScope>
            + Told
            + PartialEq
            + Clone
            + DeserializeOwned
            + Serialize
            + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let mut is_done = true;
        for (name, resource) in mirror.iter() {
            let Some(verdict) = verdicts.get(&(kind, name.clone())) else { continue };
            let generation = resource.meta().generation.unwrap_or_default();
            let Some(status) = resource.status().told(verdict, generation, wire::crypto::now()) else { continue };
            let api: Api<K> = Api::namespaced(self.client.clone(), &name.namespace);
            // Of this very version: another one gets a verdict of its own.
            let change = json!({"metadata": {"resourceVersion": resource.resource_version()}, "status": status});
            let (parameters, patch) = (PatchParams::default(), Patch::Merge(&change));
            let telling = api.patch_status(&name.name, &parameters, &patch);
            match tokio::time::timeout(TIMEOUT, telling).await {
                Ok(Ok(_)) => {}
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
                Ok(Err(error)) => {
                    warn!(resource = %name, error = wire::one_line(&error), "a resource cannot be told what became of it");
                    is_done = false;
                }
                Err(_) => is_done = false,
            }
        }
        is_done
    }
}

/// Is a resource that is told what became of it.
trait Told {
    fn status(&self) -> ResourceStatus;
}

impl Told for ServiceIntentions {
    fn status(&self) -> ResourceStatus {
        self.status.clone().unwrap_or_default()
    }
}

impl Told for ServiceDefaults {
    fn status(&self) -> ResourceStatus {
        self.status.clone().unwrap_or_default()
    }
}

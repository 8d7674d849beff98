//! What the state machine promises, told by commands and by laws over random logs.

mod acl;
mod agents;
mod every_kind;
mod first_release;
mod intentions;
mod laws;
mod mesh_entry;
mod registration;
mod requests;
mod takeover;
mod watch_keys;

use std::collections::BTreeMap;

pub(crate) use every_kind::every_kind;

use super::*;
use crate::{
    AccessorId, Action, Actor, BackupStep, Check, CheckKey, CheckStatus, CheckUpdate, Command, DeregisterTarget,
    Incarnation, Instance, IntentionKey, Item, JoinToken, Namespace, Node, Owner, Platform, RefusalKind, Rights,
    ServerId, Timestamp, Token, Topic, Weights, WriteMode,
};

pub(crate) fn envelope(number: u64, command: Command) -> Envelope {
    Envelope {
        version: command.reads_from(),
        request_id: format!("r{number}").parse().unwrap(),
        actor: Actor::Server("s1".parse().unwrap()),
        source_address: None,
        proposed_at: Timestamp(number),
        command,
    }
}

/// Stands for a hash: four of FNV-1a, each with a start of its own.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    for (start, part) in (1u64..).zip(digest.chunks_mut(8)) {
        let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        part.copy_from_slice(&bytes.iter().fold(0xcbf2_9ce4_8422_2325 ^ start, fold).to_be_bytes());
    }
    digest
}

/// Returns what was touched besides the audit trail, which refused commands touch too.
fn but_the_trail(mut touched: BTreeSet<WatchKey>) -> BTreeSet<WatchKey> {
    touched.remove(&WatchKey::Audit);
    touched
}

pub(super) fn node(name: &str, owner: Owner) -> Node {
    Node {
        name: name.parse().unwrap(),
        id: None,
        address: "10.0.0.1".to_owned(),
        platform: Platform::Vm,
        zone: None,
        network: String::new(),
        gateway_port: None,
        owner,
        incarnation: None,
        meta: BTreeMap::new(),
        tagged_addresses: BTreeMap::new(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

pub(super) fn instance(on: &str, service: &str, id: &str) -> Instance {
    let service: ServiceKey = service.parse().unwrap();
    Instance {
        key: InstanceKey { node: on.parse().unwrap(), namespace: service.namespace, id: id.parse().unwrap() },
        service: service.name,
        address: None,
        port: 80,
        ports: BTreeMap::new(),
        mesh_port: Some(20000),
        tags: Vec::new(),
        meta: BTreeMap::new(),
        tagged_addresses: BTreeMap::new(),
        weights: Weights::default(),
        enable_tag_override: false,
        upstreams: Vec::new(),
        bypassable: None,
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

pub(super) fn check(on: &str, id: &str, of: Option<&str>, status: CheckStatus) -> Check {
    Check {
        key: CheckKey { node: on.parse().unwrap(), namespace: Namespace::default(), id: id.parse().unwrap() },
        name: id.to_owned(),
        status,
        notes: String::new(),
        output: String::new(),
        instance: of.map(|of| of.parse().unwrap()),
        kind: String::new(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

pub(super) fn register(node: Node, instances: Vec<Instance>, checks: Vec<Check>, incarnation: Option<u64>) -> Command {
    let incarnation = incarnation.map(Incarnation);
    Command::Register { node: Box::new(node), instances, checks, skip_node_update: false, incarnation }
}

pub(super) fn intention(source: &str, destination: &str, action: Action) -> Command {
    let intention = Intention::new(source.parse().unwrap(), destination.parse().unwrap(), action);
    Command::WriteIntention { intention: Box::new(intention), mode: WriteMode::Upsert }
}

pub(super) fn accessor(number: u8) -> AccessorId {
    format!("00000000-0000-0000-0000-0000000000{number:02x}").parse().unwrap()
}

pub(crate) fn join_token(number: u8, services: &[&str]) -> JoinToken {
    let services = services.iter().map(|service| service.parse().unwrap()).collect();
    JoinToken::new(accessor(number), SecretHash(format!("join{number}")), services, Timestamp(1_000))
}

/// Applies commands one after the other, each as a request of its own.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) catalog: Catalog,
}

impl Log {
    pub(crate) fn apply(&mut self, command: Command) -> Applied {
        let next = self.catalog.index.0 + 1;
        self.catalog.apply(CatalogIndex(next), &envelope(next, command), digest)
    }

    #[track_caller]
    pub(crate) fn done(&mut self, command: Command) -> BTreeSet<WatchKey> {
        let applied = self.apply(command);
        assert!(!matches!(applied.outcome, Outcome::Refused(_)), "{:?}", applied.outcome);
        but_the_trail(applied.touched)
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, command: Command) -> Refusal {
        let before = self.catalog.clone();
        let applied = self.apply(command);
        let touched = but_the_trail(applied.touched);
        assert!(touched.is_empty(), "a refused command touched {touched:?}");
        let changed = before.changes.diff(&self.catalog.changes).count();
        assert_eq!(changed, usize::from(before.audit != self.catalog.audit));
        match applied.outcome {
            Outcome::Refused(refusal) => refusal,
            outcome => panic!("not refused: {outcome:?}"),
        }
    }

    #[track_caller]
    pub(super) fn enrol(&mut self, token: u8, key: &str, node: &str) -> AgentRecord {
        match self.apply(enrol(token, key, node)).outcome {
            Outcome::Enrolled { record } => *record,
            outcome => panic!("not enrolled: {outcome:?}"),
        }
    }
}

pub(crate) fn enrol(token: u8, key: &str, node: &str) -> Command {
    Command::Enrol {
        secret: SecretHash(format!("join{token}")),
        key: KeyFingerprint(key.to_owned()),
        node: node.parse().unwrap(),
        platform: Platform::Vm,
    }
}

pub(super) fn open(agent: &AgentId) -> Command {
    Command::OpenSession { agent: agent.clone(), server: "s1".parse::<ServerId>().unwrap() }
}

/// Applies envelopes one after the other, in a group that is past the first release from the start.
pub(crate) fn log_of(envelopes: &[Envelope]) -> Catalog {
    let mut catalog = Catalog { speaks: crate::ENVELOPE_VERSION, ..Catalog::default() };
    for (envelope, index) in envelopes.iter().zip(1..) {
        catalog.apply(CatalogIndex(index), envelope, digest);
    }
    catalog
}

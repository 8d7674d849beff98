//! The address book: who the members are, and where each was heard last.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use catalog::{Mesh, ServerId, ServerMember};

/// Is the address book of one server. Reading it takes no lock.
#[derive(Debug)]
pub(crate) struct Members {
    server: ServerId,
    book: ArcSwap<Book>,
}

#[derive(Debug, Clone)]
struct Book {
    own_raft_id: Option<u64>,
    /// At the addresses where they were last heard, by Raft id.
    members: Arc<[ServerMember]>,
    /// By server; this one's own is always there.
    agent_addresses: BTreeMap<ServerId, String>,
}

impl Members {
    /// Returns the book of a server that belongs to no cluster yet.
    pub(crate) fn new(server: ServerId, agent_address: String) -> Self {
        let agent_addresses = BTreeMap::from([(server.clone(), agent_address)]);
        let book = Book { own_raft_id: None, members: Arc::default(), agent_addresses };
        Self { server, book: ArcSwap::from_pointee(book) }
    }

    /// Enters the members of the cluster; `own_address` is where this server is reached now.
    pub(crate) fn activate(&self, mesh: &Mesh, own_address: &str) {
        let mut members = mesh.servers.clone();
        members.sort_by_key(|member| member.raft_id);
        let own = members.iter_mut().find(|member| member.id == self.server);
        let own_raft_id = own.map(|own| {
            own_address.clone_into(&mut own.raft_address);
            own.raft_id
        });
        let members: Arc<[ServerMember]> = members.into();
        self.book.rcu(|book| Book { own_raft_id, members: Arc::clone(&members), ..Book::clone(book) });
    }

    /// Enters where a member says it is reached; reports whether that is news. Others than members are not entered.
    pub(crate) fn learn(&self, server: &ServerId, raft_address: &str, agent_address: &str) -> bool {
        let book = self.book.load();
        let Some(known) = book.members.iter().find(|member| member.id == *server) else { return false };
        let is_known = known.raft_address == raft_address;
        if is_known && book.agent_addresses.get(server).is_some_and(|address| address == agent_address) {
            return false;
        }
        self.book.rcu(|book| {
            let mut book = Book::clone(book);
            let mut members = book.members.to_vec();
            for member in members.iter_mut().filter(|member| member.id == *server) {
                raft_address.clone_into(&mut member.raft_address);
            }
            book.members = members.into();
            book.agent_addresses.insert(server.clone(), agent_address.to_owned());
            book
        });
        !is_known
    }

    /// Returns this server's Raft id; none while it belongs to no cluster.
    pub(crate) fn own_raft_id(&self) -> Option<u64> {
        self.book.load().own_raft_id
    }

    /// Returns the member with a Raft id.
    pub(crate) fn member(&self, raft_id: u64) -> Option<ServerMember> {
        self.book.load().members.iter().find(|member| member.raft_id == raft_id).cloned()
    }

    /// Returns the Raft id of a member.
    pub(crate) fn raft_id(&self, server: &ServerId) -> Option<u64> {
        self.book.load().members.iter().find(|member| member.id == *server).map(|member| member.raft_id)
    }

    /// Returns all members by Raft id; empty while this server belongs to no cluster.
    pub(crate) fn all(&self) -> Arc<[ServerMember]> {
        Arc::clone(&self.book.load().members)
    }

    /// Returns the agents' addresses that are known, this server's own first.
    pub(crate) fn agent_addresses(&self) -> Vec<String> {
        let book = self.book.load();
        let own = book.agent_addresses.get(&self.server);
        let others = book.agent_addresses.iter().filter(|(server, _)| **server != self.server);
        own.into_iter().chain(others.map(|(_, address)| address)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use catalog::PathTemplate;

    use super::*;

    fn member(id: &str, raft_id: u64) -> ServerMember {
        let raft_address = format!("{id}:8301");
        ServerMember { id: id.parse().unwrap(), raft_id, disk_id: format!("disk-{id}"), raft_address, reads: 2 }
    }

    fn book() -> Members {
        let members = Members::new("b".parse().unwrap(), "b:8300".to_owned());
        let mesh = Mesh {
            cluster_id: "one".to_owned(),
            datacenter: "dc1".to_owned(),
            trust_domain: "one.weft".parse().unwrap(),
            template: PathTemplate::default(),
            servers: vec![member("a", 1), member("b", 2)],
        };
        members.activate(&mesh, "b2:8301");
        members
    }

    #[test]
    fn a_members_new_address_is_learned_and_a_strangers_is_not() {
        let members = book();
        assert_eq!(members.member(2).unwrap().raft_address, "b2:8301");
        assert_eq!(members.own_raft_id(), Some(2));
        assert!(members.learn(&"a".parse().unwrap(), "a2:8301", "a2:8300"));
        assert!(!members.learn(&"a".parse().unwrap(), "a2:8301", "a2:8300"));
        assert_eq!(members.member(1).unwrap().raft_address, "a2:8301");
        assert!(!members.learn(&"c".parse().unwrap(), "c:8301", "c:8300"));
        assert_eq!(members.all().len(), 2);
        assert_eq!(members.agent_addresses(), ["b:8300", "a2:8300"]);
    }
}

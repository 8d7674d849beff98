//! The address book: who the members are, by the catalog and by what they said themselves, and where each was heard last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use catalog::{Member, Membership, Mesh, ServerId, ServerMember};

use super::transport::hello::About;

/// Is the address book of one server. Reading it takes no lock.
#[derive(Debug)]
pub(crate) struct Members {
    server: ServerId,
    book: ArcSwap<Book>,
    /// How many connections for Raft's messages each peer holds to this server.
    heard: Mutex<BTreeMap<ServerId, usize>>,
}

/// Counts a peer as heard while it lives.
#[derive(Debug)]
pub(crate) struct Heard<'a> {
    members: &'a Members,
    peer: ServerId,
}

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        let mut heard = self.members.heard();
        if let Some(count) = heard.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                heard.remove(&self.peer);
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Book {
    own_raft_id: Option<u64>,
    /// At the addresses where they were last heard, by Raft id.
    members: Arc<[ServerMember]>,
    /// The addresses that the catalog had last: a new one there is news, the same one is older than what was heard.
    listed: BTreeMap<u64, (String, String)>,
    /// By server; this one's own is always there.
    agent_addresses: BTreeMap<ServerId, String>,
    /// The highest version of an envelope that each member said it reads.
    readers: BTreeMap<u64, u16>,
}

impl Members {
    /// Returns the book of a server that belongs to no cluster yet.
    pub(crate) fn new(server: ServerId, agent_address: String) -> Self {
        let agent_addresses = BTreeMap::from([(server.clone(), agent_address)]);
        let book = Book {
            own_raft_id: None,
            members: Arc::default(),
            listed: BTreeMap::new(),
            agent_addresses,
            readers: BTreeMap::new(),
        };
        Self { server, book: ArcSwap::from_pointee(book), heard: Mutex::default() }
    }

    /// Enters the members of the cluster as it was when this server became one; `own_address` is where it is reached now.
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

    /// Follows the list of servers in the catalog. Whom it does not know yet stays; whom it took out goes.
    pub(crate) fn follow(&self, membership: &Membership) {
        if membership.members.is_empty() {
            return;
        }
        self.book.rcu(|book| book.following(&self.server, membership));
    }

    /// Enters where a server of this cluster says it is reached; reports whether that is news. A member that this server has
    /// not heard of through the log yet is entered, too: the transport has judged it.
    pub(crate) fn learn(&self, about: &About) -> bool {
        let candidate = &about.candidate;
        let book = self.book.load();
        let known = book.members.iter().find(|member| member.id == candidate.server);
        let is_newer = match (known, about.raft_id) {
            (None, Some(_)) => book.own_raft_id.is_some(),
            (Some(known), Some(raft_id)) if raft_id < known.raft_id => return false,
            (Some(known), Some(raft_id)) => raft_id > known.raft_id,
            (_, None) => false,
        };
        if known.is_none() && !is_newer {
            return false;
        }
        let is_known = known.is_some_and(|known| known.raft_address == candidate.raft_address) && !is_newer;
        let same_agent_address = book.agent_addresses.get(&candidate.server) == Some(&about.agent_address);
        let reads = known.and_then(|known| book.readers.get(&known.raft_id).copied());
        if is_known && same_agent_address && reads == Some(candidate.reads) {
            return false;
        }
        self.book.rcu(|book| book.learning(about, is_newer));
        !is_known
    }

    /// Counts a peer as heard until the returned guard is dropped.
    pub(crate) fn hear(&self, peer: &ServerId) -> Heard<'_> {
        *self.heard().entry(peer.clone()).or_default() += 1;
        Heard { members: self, peer: peer.clone() }
    }

    /// Returns this server and the peers that it hears.
    pub(crate) fn all_heard(&self) -> BTreeSet<ServerId> {
        self.heard().keys().cloned().chain([self.server.clone()]).collect()
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<ServerId, usize>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Returns the highest version of an envelope that each member said it reads.
    pub(crate) fn readers(&self) -> BTreeMap<u64, u16> {
        self.book.load().readers.clone()
    }

    /// Returns the agents' addresses that are known, this server's own first.
    pub(crate) fn agent_addresses(&self) -> Vec<String> {
        let book = self.book.load();
        let own = book.agent_addresses.get(&self.server);
        let others = book.agent_addresses.iter().filter(|(server, _)| **server != self.server);
        own.into_iter().chain(others.map(|(_, address)| address)).cloned().collect()
    }
}

impl Book {
    fn following(&self, own: &ServerId, membership: &Membership) -> Self {
        let mut book = self.clone();
        // Whoever has a number that the catalog has not given yet is newer than the catalog.
        let mut members: Vec<ServerMember> =
            self.members.iter().filter(|known| known.raft_id >= membership.next_raft_id).cloned().collect();
        let newer: Vec<ServerId> = members.iter().map(|member| member.id.clone()).collect();
        for member in membership.members.values().filter(|member| !newer.contains(&member.id)) {
            members.push(book.listing(own, member));
        }
        members.sort_by_key(|member| member.raft_id);
        let is_member = |raft_id: &u64| members.iter().any(|member| member.raft_id == *raft_id);
        book.listed.retain(|raft_id, _| is_member(raft_id));
        book.readers.retain(|raft_id, _| is_member(raft_id));
        book.agent_addresses.retain(|server, _| server == own || members.iter().any(|member| member.id == *server));
        book.members = members.into();
        book
    }

    /// Returns a member as the catalog has it, at the address where it was heard unless the catalog's is newer.
    fn listing(&mut self, own: &ServerId, member: &Member) -> ServerMember {
        let now = (member.facts.raft_address.clone(), member.facts.agent_address.clone());
        let is_news = self.listed.get(&member.raft_id) != Some(&now);
        let heard = self.members.iter().find(|known| known.raft_id == member.raft_id);
        let is_first = !self.listed.contains_key(&member.raft_id);
        let raft_address = match heard {
            // What was heard before the catalog was read back is newer than what the catalog says then.
            Some(heard) if !is_news || is_first || member.id == *own => heard.raft_address.clone(),
            _ => now.0.clone(),
        };
        let takes_agent_address = !now.1.is_empty() && member.id != *own;
        if takes_agent_address && (is_news && !is_first || !self.agent_addresses.contains_key(&member.id)) {
            self.agent_addresses.insert(member.id.clone(), now.1.clone());
        }
        self.listed.insert(member.raft_id, now);
        ServerMember {
            id: member.id.clone(),
            raft_id: member.raft_id,
            disk_id: member.disk_id.clone(),
            raft_address,
            reads: member.facts.reads,
        }
    }

    fn learning(&self, about: &About, is_newer: bool) -> Self {
        let (mut book, candidate) = (self.clone(), &about.candidate);
        let mut members = book.members.to_vec();
        if let (true, Some(raft_id)) = (is_newer, about.raft_id) {
            members.retain(|member| member.id != candidate.server);
            members.push(ServerMember {
                id: candidate.server.clone(),
                raft_id,
                disk_id: candidate.disk_id.clone(),
                raft_address: candidate.raft_address.clone(),
                reads: candidate.reads,
            });
            members.sort_by_key(|member| member.raft_id);
        }
        for member in members.iter_mut().filter(|member| member.id == candidate.server) {
            candidate.raft_address.clone_into(&mut member.raft_address);
            book.readers.insert(member.raft_id, candidate.reads);
        }
        book.members = members.into();
        book.agent_addresses.insert(candidate.server.clone(), about.agent_address.clone());
        book
    }
}

#[cfg(test)]
mod tests {
    use catalog::{CatalogIndex, MemberFacts, MemberRole, PathTemplate};

    use super::*;
    use crate::consensus::bootstrap::{Candidate, Commitment, Settings};

    fn member(id: &str, raft_id: u64) -> ServerMember {
        let raft_address = format!("{id}:8301");
        ServerMember { id: id.parse().unwrap(), raft_id, disk_id: format!("disk-{id}"), raft_address, reads: 2 }
    }

    fn mesh() -> Mesh {
        Mesh {
            cluster_id: "one".to_owned(),
            datacenter: "dc1".to_owned(),
            trust_domain: "one.weft".parse().unwrap(),
            template: PathTemplate::default(),
            servers: vec![member("a", 1), member("b", 2)],
        }
    }

    fn book() -> Members {
        let members = Members::new("b".parse().unwrap(), "b:8300".to_owned());
        members.activate(&mesh(), "b2:8301");
        members
    }

    fn about(id: &str, raft_id: Option<u64>, host: &str) -> About {
        let settings = Settings {
            bootstrap_expect: 2,
            datacenter: "dc1".to_owned(),
            trust_domain: None,
            path_template: PathTemplate::default(),
        };
        let candidate = Candidate {
            server: id.parse().unwrap(),
            disk_id: format!("disk-{id}"),
            raft_address: format!("{host}:8301"),
            reads: 2,
            settings,
        };
        let agent_address = format!("{host}:8300");
        About { candidate, agent_address, commitment: Commitment::None, known: Vec::new(), raft_id, epoch: 0 }
    }

    #[test]
    fn a_peer_is_heard_while_one_of_its_connections_is_open() {
        let (members, peer) = (book(), "a".parse().unwrap());
        let first = members.hear(&peer);
        let second = members.hear(&peer);
        drop(first);
        assert!(members.all_heard().contains(&peer));
        drop(second);
        assert_eq!(members.all_heard().into_iter().collect::<Vec<_>>(), ["b".parse().unwrap()]);
    }

    #[test]
    fn a_members_new_address_is_learned_and_a_strangers_is_not() {
        let members = book();
        assert_eq!(members.member(2).unwrap().raft_address, "b2:8301");
        assert_eq!(members.own_raft_id(), Some(2));
        assert!(members.learn(&about("a", Some(1), "a2")));
        assert!(!members.learn(&about("a", Some(1), "a2")));
        assert_eq!(members.member(1).unwrap().raft_address, "a2:8301");
        assert!(!members.learn(&about("c", None, "c")));
        assert_eq!(members.all().len(), 2);
        assert_eq!(members.agent_addresses(), ["b:8300", "a2:8300"]);
        assert_eq!(members.readers(), BTreeMap::from([(1, 2)]));
    }

    #[test]
    fn the_catalog_adds_and_takes_out_and_what_was_heard_is_newer_than_what_it_said_before() {
        let members = book();
        members.learn(&about("a", Some(1), "a2"));
        let mut membership = Membership::founded_by(&mesh());
        members.follow(&membership);
        assert_eq!(members.member(1).unwrap().raft_address, "a2:8301");
        let facts = |host: &str| MemberFacts {
            raft_address: format!("{host}:8301"),
            agent_address: format!("{host}:8300"),
            release: "1".to_owned(),
            reads: 2,
            keys: Vec::new(),
        };
        let newcomer = Member {
            id: "c".parse().unwrap(),
            raft_id: 3,
            disk_id: "disk-c".to_owned(),
            role: MemberRole::Learner,
            facts: facts("c"),
            created: CatalogIndex(2),
            modified: CatalogIndex(2),
        };
        membership.members.insert(3, Arc::new(newcomer));
        membership.next_raft_id = 4;
        let first = Arc::make_mut(membership.members.get_mut(&1).unwrap());
        first.facts = facts("a3");
        members.follow(&membership);
        assert_eq!(members.member(1).unwrap().raft_address, "a3:8301", "a new address in the catalog is news");
        assert_eq!(members.agent_addresses(), ["b:8300", "a3:8300", "c:8300"]);
        membership.members.remove(&1);
        members.follow(&membership);
        assert_eq!(members.all().iter().map(|member| member.raft_id).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(members.agent_addresses(), ["b:8300", "c:8300"]);
    }

    #[test]
    fn a_member_that_the_log_has_not_told_of_yet_is_known_by_what_it_says() {
        let members = book();
        assert!(members.learn(&about("c", Some(7), "c")));
        assert_eq!(members.raft_id(&"c".parse().unwrap()), Some(7));
        members.follow(&Membership::founded_by(&mesh()));
        assert_eq!(members.raft_id(&"c".parse().unwrap()), Some(7), "the catalog may be older than what was heard");
        assert!(members.learn(&about("a", Some(8), "a9")), "a lost server was replaced under its old name");
        assert_eq!(members.raft_id(&"a".parse().unwrap()), Some(8));
        assert!(!members.learn(&about("a", Some(1), "a9")), "its predecessor is not taken for it");
    }
}

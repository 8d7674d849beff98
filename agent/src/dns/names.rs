//! What the agent knows of a name; what it does not know yet, it follows from then on, so that it can tell without a server
//! later.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use catalog::{Item, NodeName, ServiceKey, Topic};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::Semaphore;
use wire::crypto::Secret;

use super::answer::Known;
use super::question::Asked;
use crate::api::ApiState;
use crate::core::{Handle, Request, Sought, Status, endpoints, number_of};

/// How long a question waits until servers have said what is behind a name: resolvers give up after five seconds.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long it waits where the agent has no server to ask.
const PATIENCE_ALONE: Duration = Duration::from_secs(1);
/// How many questions wait for that at once.
const WAITING_MAX: usize = 256;
/// How often the agent hears that a name is still asked for.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);
/// Of how many names it is remembered when that was.
const TOUCHED_MAX: usize = 4096;
/// So many names that nothing is known of are asked for at once, whoever looks them up, and so many a second from then on: each is
/// two topics of a server, which in the long run tells an agent of fifty a second.
const UNKNOWN_BURST: NonZeroU32 = NonZeroU32::new(200).unwrap();
const UNKNOWN_A_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// Says why nothing is known: nobody could be asked in time, or too many ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unknown;

/// Looks names up.
pub(super) struct Names {
    core: Handle,
    /// By whose rights names are told.
    rights: Option<(ApiState, Secret)>,
    touched: Mutex<BTreeMap<Sought, Instant>>,
    waiting: Semaphore,
    /// Paces those that nothing is known of.
    asked: DefaultDirectRateLimiter,
}

impl Names {
    pub(super) fn new(core: Handle, rights: Option<(ApiState, Secret)>) -> Self {
        let asked = RateLimiter::direct(Quota::per_second(UNKNOWN_A_SECOND).allow_burst(UNKNOWN_BURST));
        Self { core, rights, touched: Mutex::default(), waiting: Semaphore::new(WAITING_MAX), asked }
    }

    pub(super) fn datacenter(&self) -> String {
        self.core.status().datacenter.clone()
    }

    /// Returns what is behind a name. What the token may not know of is not there.
    pub(super) async fn known(&self, asked: &Asked) -> Result<Known, Unknown> {
        if !self.may_know(asked).await {
            return Ok(Known::Nothing);
        }
        Ok(match asked {
            Asked::Domain => Known::Domain,
            Asked::Branch => Known::Branch,
            Asked::Nothing => Known::Nothing,
            Asked::Address(address) => Known::Place(address.to_string()),
            Asked::Service { service, tag } => {
                self.follow(Sought::Service(service.clone()), |status| instances(status, service, tag.as_deref()))
                    .await?
            }
            Asked::Virtual(service) => {
                self.follow(Sought::Service(service.clone()), |status| number(status, service)).await?
            }
            Asked::Node(name) => self.node(name).await?,
        })
    }

    /// Returns what is behind a node's name, whatever the case of its letters: some resolvers draw it by lot. Where no node has
    /// the name in small letters, one is looked for that has it as it was spelled.
    async fn node(&self, spelled: &NodeName) -> Result<Known, Unknown> {
        let small = spelled.as_str().to_ascii_lowercase().parse().unwrap_or_else(|_| spelled.clone());
        for name in [&small, spelled] {
            if !self.may_know_node(name).await {
                continue;
            }
            let known = self.follow(Sought::Node(name.clone()), |status| node(status, name)).await?;
            if known != Known::Nothing || small == *spelled {
                return Ok(known);
            }
        }
        Ok(Known::Nothing)
    }

    async fn may_know_node(&self, name: &NodeName) -> bool {
        let Some((api, token)) = &self.rights else { return true };
        api.authority_of(token).await.is_some_and(|authority| authority.node_read(name))
    }

    /// Reports whether a name may be told. By a token that nobody can judge, nothing is.
    async fn may_know(&self, asked: &Asked) -> bool {
        let Some((api, token)) = &self.rights else { return true };
        match asked {
            // Of a node, the right is asked for under the name that it is looked up by.
            Asked::Domain | Asked::Branch | Asked::Nothing | Asked::Address(_) | Asked::Node(_) => true,
            Asked::Service { service, .. } | Asked::Virtual(service) => {
                api.authority_of(token).await.is_some_and(|authority| authority.service_read(service))
            }
        }
    }

    /// Returns what is known of something, or becomes known before long.
    async fn follow(&self, sought: Sought, find: impl Fn(&Status) -> Option<Known>) -> Result<Known, Unknown> {
        let found = find(&self.core.status());
        if found.is_none() && !self.is_paced() {
            return Err(Unknown);
        }
        if found.is_none() || self.is_due(&sought) {
            self.core.send(Request::Seek(sought)).await;
        }
        if let Some(found) = found {
            return Ok(found);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| Unknown)?;
        let mut status = self.core.watch();
        // Whoever has no server for a while, from now on or later, has nobody to wait for.
        let mut reached = self.core.watch();
        let alone = async {
            loop {
                let is_reached = reached.wait_for(|status| status.server.is_some());
                if !matches!(tokio::time::timeout(PATIENCE_ALONE, is_reached).await, Ok(Ok(_))) {
                    return;
                }
                if reached.wait_for(|status| status.server.is_none()).await.is_err() {
                    return;
                }
            }
        };
        let told = tokio::time::timeout(PATIENCE, status.wait_for(|status| find(status).is_some()));
        let status = tokio::select! {
            told = told => told.map_err(|_| Unknown)?.map_err(|_| Unknown)?,
            () = alone => return Err(Unknown),
        };
        find(&status).ok_or(Unknown)
    }

    /// Reports whether one more name may be asked for that nothing is known of, and counts it.
    fn is_paced(&self) -> bool {
        self.asked.check().is_ok()
    }

    /// Reports whether it is time to say again that something is asked for, and notes that it was said.
    fn is_due(&self, sought: &Sought) -> bool {
        let now = Instant::now();
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        if touched.get(sought).is_some_and(|at| now.duration_since(*at) < TOUCH_INTERVAL) {
            return false;
        }
        if touched.len() >= TOUCHED_MAX {
            touched.clear();
        }
        touched.insert(sought.clone(), now);
        true
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Names").finish_non_exhaustive()
    }
}

fn instances(status: &Status, service: &ServiceKey, tag: Option<&str>) -> Option<Known> {
    let state = status.view.get(&Topic::Endpoints(service.clone()))?;
    if state.items.is_empty() {
        return Some(Known::Nothing);
    }
    let mut instances = endpoints(state);
    if let Some(tag) = tag {
        instances.retain(|instance| instance.tags.iter().any(|own| own.eq_ignore_ascii_case(tag)));
        if instances.is_empty() {
            return Some(Known::Nothing);
        }
    }
    Some(Known::Instances(instances))
}

/// A virtual address is told once calls to it can be carried.
fn number(status: &Status, service: &ServiceKey) -> Option<Known> {
    let state = status.view.get(&Topic::Endpoints(service.clone()))?;
    status.view.get(&Topic::Config(service.clone()))?;
    Some(number_of(state).map_or(Known::Nothing, Known::Number))
}

fn node(status: &Status, name: &NodeName) -> Option<Known> {
    let state = status.view.get(&Topic::Node(name.clone()))?;
    let address = state.items.values().find_map(|item| match item {
        Item::Node { address } => Some(address.clone()),
        _ => None,
    });
    Some(address.map_or(Known::Nothing, Known::Place))
}

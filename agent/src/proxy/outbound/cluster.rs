//! The instances that one target of a way has, as calls choose among them: worked out once for each snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use catalog::{Balance, Balancing, CheckStatus, Endpoint, Gateway, InstanceKey, Leg, Reach, ServiceKey, Target};
use http::header::HeaderValue;
use tokio::time::Instant;

use super::call_error::CallError;
use super::endpoints::{Draws, Scope, Tried, label_of};
use super::ring::Ring;
use super::standing::Standing;
use crate::proxy::snapshot::{Snapshot, default_port};

/// Of fewer instances than this, the checks are always believed.
const PANIC_MIN: usize = 3;
/// How many places the order has at most in which instances of different weights are asked.
const SLOTS_MAX: u64 = 1_024;
/// All calls, of which a share goes to the own zone.
const ALL: u64 = 10_000;
/// How many instances of the own zone bear all of its calls: ten of fourteen, as Envoy has it.
const SPARE: (u64, u64) = (14, 10);
/// How long the share of the own zone holds once it was worked out, in milliseconds.
const SHARE_HOLDS_MS: u64 = 100;
/// How long a name of a host may be (RFC 1035 section 2.3.4).
const HOST_NAME_MAX: usize = 253;
/// How often an instance is drawn anew that cannot take the call, before the next one that can is taken.
const REDRAWS: usize = 3;

/// Is an instance that can be called, with what that takes.
#[derive(Debug)]
pub(crate) struct Member {
    /// Which instance.
    pub(crate) key: InstanceKey,
    /// The service that it is an instance of.
    pub(crate) service: ServiceKey,
    /// How a CONNECT names it.
    pub(crate) authority: String,
    /// How a request says which of its ports is meant.
    pub(crate) port: HeaderValue,
    /// Where its agent is dialled, or each of the gateways that lead to it.
    pub(crate) addresses: Vec<Arc<str>>,
    /// Whether no agent stands before it, so that its application is dialled and nobody proves who that is.
    pub(crate) is_outside: bool,
    /// What a gateway is asked for that is to lead to it and to no other; nothing where it is dialled directly.
    pub(crate) server_name: Option<Arc<str>>,
    /// The failure zone of its node.
    pub(crate) zone: Option<String>,
    /// How it has fared.
    pub(crate) standing: Arc<Standing>,
    pub(crate) weight: u32,
}

impl Member {
    /// Reports whether nothing speaks against the instance: it did not just fail, and it asks for traffic.
    fn is_fit(&self, tried: &Tried, now: Instant) -> bool {
        self.weight > 0 && !self.standing.is_aside(now) && !tried.has(&self.standing)
    }
}

/// Is the instances of a target.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The service that they are of.
    pub(crate) service: ServiceKey,
    balancing: Balancing,
    /// How long it may take until one of them is reached, where something is said of that.
    pub(crate) connect_timeout: Option<Duration>,
    near: Tier,
    /// Those of other zones, where the caller's own comes first.
    far: Tier,
    /// The share of calls that stays near, and until when it holds, in milliseconds.
    share: AtomicU64,
    epoch: Instant,
    known: usize,
    nobody: Option<Nobody>,
}

/// Is instances that are chosen among alike.
#[derive(Debug, Default)]
struct Tier {
    members: Vec<Arc<Member>>,
    /// How many there are, those included that cannot be called.
    known: usize,
    /// The order in which they are asked, each as often as its weight says.
    slots: Vec<u32>,
    ring: Ring,
    turn: AtomicUsize,
}

/// Says why nobody can be called.
#[derive(Debug)]
enum Nobody {
    Registered,
    Healthy,
    InReach { network: String },
    Meshed,
    WithPort,
}

/// Is an instance with what leads to it: nothing where it is dialled directly.
struct Way<'a> {
    endpoint: &'a Endpoint,
    gateways: Vec<&'a Gateway>,
}

impl Cluster {
    /// Finds the instances of a target that could be called at all. `is_alone` says that nothing takes over for it.
    pub(crate) fn new(
        snapshot: &Snapshot,
        target: &Target,
        (leg, is_alone, scope): (&Leg, bool, Scope),
        standing: impl Fn(&InstanceKey) -> Arc<Standing>,
        draws: &Draws,
    ) -> Self {
        let (known, balancing) = (snapshot.instances(target), &leg.balancing);
        let (callable, nobody) = match callable(snapshot, target, is_alone, scope) {
            Ok(callable) => (callable, None),
            Err(nobody) => (Vec::new(), Some(nobody)),
        };
        let service = &target.key.service;
        let member = |(Way { endpoint, gateways }, mesh_port, port): (Way<'_>, Option<u16>, u16)| {
            let weight = match endpoint.status {
                CheckStatus::Warning => endpoint.weights.warning,
                _ => endpoint.weights.passing,
            };
            let own = || Arc::from(host_and_port(&endpoint.address, mesh_port.unwrap_or(port)));
            // Of a service whose name leaves no room for one more label, a gateway chooses the instance.
            let named = || {
                let name = snapshot.scheme.sni_of_instance(service, &label_of(&endpoint.key));
                (name.len() <= HOST_NAME_MAX).then(|| Arc::from(name))
            };
            let addresses = match gateways.as_slice() {
                [] => vec![own()],
                through => through.iter().map(|one| Arc::from(host_and_port(&one.address, one.port))).collect(),
            };
            Arc::new(Member {
                key: endpoint.key.clone(),
                service: service.clone(),
                authority: host_and_port(&endpoint.address, port),
                port: HeaderValue::from(port),
                addresses,
                is_outside: mesh_port.is_none(),
                server_name: (!gateways.is_empty()).then(named).flatten(),
                zone: endpoint.zone.clone(),
                standing: standing(&endpoint.key),
                weight,
            })
        };
        let members = callable.into_iter().map(member).collect::<Vec<_>>();
        let own_zone = snapshot.zone.as_ref().filter(|_| balancing.by_locality);
        let is_near = |zone: &Option<String>| own_zone.is_none() || zone.as_ref() == own_zone;
        let (near, far): (Vec<_>, Vec<_>) = members.into_iter().partition(|member| is_near(&member.zone));
        let near_known = known.iter().filter(|endpoint| is_near(&endpoint.zone)).count();
        Self {
            near: Tier::new(near, near_known, balancing, draws),
            far: Tier::new(far, known.len() - near_known, balancing, draws),
            service: service.clone(),
            balancing: balancing.clone(),
            connect_timeout: leg.connect_timeout,
            share: AtomicU64::new(0),
            epoch: draws.epoch(),
            known: known.len(),
            nobody,
        }
    }

    /// Lists the instances that can be called, the near ones first.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.near.members.iter().chain(&self.far.members)
    }

    /// Counts the instances that can be called.
    pub(crate) fn count(&self) -> usize {
        self.members().count()
    }

    /// Counts the instances that can be called, and those of them that are put aside.
    pub(crate) fn count_aside(&self, now: Instant) -> (usize, usize) {
        let aside = self.members().filter(|member| member.standing.is_aside(now)).count();
        (self.count(), aside)
    }

    /// Chooses an instance that was not tried yet, and says whether nothing speaks against it.
    ///
    /// # Errors
    ///
    /// Why nobody can be called, or that all were tried.
    pub(crate) fn pick(
        &self,
        draws: &Draws,
        hash: Option<u64>,
        tried: &Tried,
        now: Instant,
    ) -> Result<(&Arc<Member>, bool), CallError> {
        if let Some(nobody) = &self.nobody {
            return Err(self.nobody_to_call(nobody));
        }
        let tiers = match self.stays_near(draws, now) {
            true => [&self.near, &self.far],
            false => [&self.far, &self.near],
        };
        let fit = tiers.iter().find_map(|tier| tier.pick(&self.balancing, draws, hash, tried, now));
        if let Some(member) = fit {
            return Ok((member, true));
        }
        // Weight 0 asks for no traffic; whoever is aside just failed. To try them is better than to refuse.
        let left = || self.members().filter(|member| !tried.has(&member.standing));
        let asked_for = left().filter(|member| member.weight > 0).min_by_key(|member| member.standing.aside_for(now));
        let last_resort = asked_for.or_else(|| left().next());
        last_resort.map(|member| (member, false)).ok_or_else(|| CallError::NoHealthyEndpoint {
            destination: self.service.clone(),
            known: self.known.saturating_sub(tried.len()),
        })
    }

    /// Decides whether a call stays in the caller's own zone: all do while enough of its instances are well, and else a
    /// share of them.
    fn stays_near(&self, draws: &Draws, now: Instant) -> bool {
        if self.far.members.is_empty() || self.near.members.is_empty() {
            return !self.near.members.is_empty();
        }
        let moment = u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX >> 16);
        let held = self.share.load(Ordering::Relaxed);
        let share = if moment < held >> 16 {
            held & 0xffff
        } else {
            let nothing = Tried::default();
            let well = self.near.members.iter().filter(|member| member.is_fit(&nothing, now)).count() as u64;
            let share = (well * ALL * SPARE.0 / SPARE.1 / (self.near.known as u64).max(1)).min(ALL);
            self.share.store((moment + SHARE_HOLDS_MS) << 16 | share, Ordering::Relaxed);
            share
        };
        share >= ALL || draws.any() % ALL < share
    }

    fn nobody_to_call(&self, nobody: &Nobody) -> CallError {
        let destination = self.service.clone();
        match nobody {
            Nobody::Registered => CallError::NoEndpoint { destination },
            Nobody::Healthy => CallError::NoHealthyEndpoint { destination, known: self.known },
            Nobody::InReach { network } => CallError::OtherNetwork { destination, network: network.clone() },
            Nobody::Meshed => CallError::NoMeshPort { destination },
            Nobody::WithPort => CallError::NoPort { destination },
        }
    }
}

impl Tier {
    fn new(members: Vec<Arc<Member>>, known: usize, balancing: &Balancing, draws: &Draws) -> Self {
        let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
        let (mut slots, mut ring) = (Vec::new(), Ring::default());
        match balancing.policy {
            Balance::LeastRequest => {}
            Balance::RoundRobin | Balance::Random => slots = in_turn(&weights),
            Balance::RingHash => {
                let named: Vec<(String, u32)> =
                    members.iter().map(|member| (member.key.to_string(), member.weight)).collect();
                ring = Ring::new(&named, balancing.ring());
            }
        }
        // Not all agents begin with the same one.
        let turn = AtomicUsize::new(draws.below(slots.len()));
        Self { members, known, slots, ring, turn }
    }

    /// Chooses an instance that nothing speaks against.
    fn pick(
        &self,
        balancing: &Balancing,
        draws: &Draws,
        hash: Option<u64>,
        tried: &Tried,
        now: Instant,
    ) -> Option<&Arc<Member>> {
        let fit = |number: usize| self.members.get(number).filter(|member| member.is_fit(tried, now));
        let in_slot = |slot: usize| fit(*self.slots.get(slot % self.slots.len().max(1))? as usize);
        let slots = self.slots.len();
        match balancing.policy {
            Balance::LeastRequest => self.least(balancing.choices.unwrap_or(2), draws, tried, now),
            Balance::RoundRobin => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % slots.max(1);
                (turn..turn + slots).find_map(in_slot)
            }
            Balance::Random => {
                let drawn = (0..=REDRAWS).find_map(|_| in_slot(draws.below(slots)));
                drawn.or_else(|| (0..slots).find_map(in_slot))
            }
            Balance::RingHash => self.ring.from(hash.unwrap_or_else(|| draws.any())).find_map(fit),
        }
    }

    /// Chooses the one of several drawn at random that a further call costs least for its weight.
    fn least(&self, choices: u32, draws: &Draws, tried: &Tried, now: Instant) -> Option<&Arc<Member>> {
        let count = self.members.len();
        let fit_from = |start: usize| {
            let numbers = (start..start + count).map(|number| number % count);
            numbers.map(|number| (number, &self.members[number])).find(|(_, member)| member.is_fit(tried, now))
        };
        if count == 0 {
            return None;
        }
        let drawn = (0..REDRAWS).map(|_| draws.below(count)).find(|number| self.members[*number].is_fit(tried, now));
        let (first, mut best) = fit_from(drawn.unwrap_or_else(|| draws.below(count)))?;
        for _ in 1..choices {
            // Drawn from the others, so that the two are never the same one where there are two.
            let Some((_, other)) = fit_from((first + 1 + draws.below(count - 1)) % count) else { break };
            if other.standing.is_cheaper(other.weight, &best.standing, best.weight, now) {
                best = other;
            }
        }
        Some(best)
    }
}

/// Returns an order in which each has its weight's share and those of one do not stand together (smooth weighted round
/// robin).
fn in_turn(weights: &[u32]) -> Vec<u32> {
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, u64::from(*weight))).max(1);
    let most = SLOTS_MAX.max(weights.len() as u64);
    let scaled: Vec<i64> = weights
        .iter()
        .map(|weight| match u64::from(*weight) {
            0 => 0,
            weight if sum / divisor <= most => weight / divisor,
            weight => (u128::from(weight) * u128::from(most) / u128::from(sum)).max(1) as u64,
        })
        .map(|weight| i64::try_from(weight).unwrap_or(i64::MAX))
        .collect();
    if weights.len() as u64 > SLOTS_MAX {
        return spread(&scaled);
    }
    let total: i64 = scaled.iter().sum();
    let mut due = vec![0_i64; weights.len()];
    (0..total)
        .filter_map(|_| {
            due.iter_mut().zip(&scaled).for_each(|(due, weight)| *due += weight);
            // The first of several that are due alike, not the last.
            let (number, most) = due.iter_mut().enumerate().rev().max_by_key(|(_, due)| **due)?;
            *most -= total;
            u32::try_from(number).ok()
        })
        .collect()
}

/// Returns the same for so many that to count through them for each turn would take long: each has its turns at equal distances,
/// and begins where it stands among all.
fn spread(weights: &[i64]) -> Vec<u32> {
    let all = weights.len() as i128;
    let places = weights.iter().zip(0_u32..).flat_map(|(weight, number)| {
        let weight = i128::from(*weight);
        (0..weight).map(move |turn| (((turn * all + i128::from(number)) << 32) / (weight * all), number))
    });
    let mut places: Vec<(i128, u32)> = places.collect();
    places.sort_unstable();
    places.into_iter().map(|(_, number)| number).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Reports whether so many instances are unhealthy at once that their checks are likelier to be wrong than right: more than
/// half, of three or more.
pub(crate) fn is_panic(known: &[Endpoint]) -> bool {
    let healthy = known.iter().filter(|endpoint| endpoint.status != CheckStatus::Critical).count();
    known.len() >= PANIC_MIN && healthy * 2 < known.len()
}

/// Finds the instances that could be called at all, each with its mesh port, where an agent stands before it, and its
/// application's; says why there is none.
fn callable<'a>(
    snapshot: &'a Snapshot,
    target: &Target,
    is_alone: bool,
    scope: Scope,
) -> Result<Vec<(Way<'a>, Option<u16>, u16)>, Nobody> {
    let known = snapshot.instances(target);
    let asked = match scope {
        Scope::OwnNetwork(label) => label,
        Scope::Anywhere => None,
    };
    let is_asked = |endpoint: &&Endpoint| asked.is_none_or(|label| label_of(&endpoint.key) == label);
    let known_here: Vec<&Endpoint> = known.iter().filter(is_asked).collect();
    if known_here.is_empty() {
        return Err(Nobody::Registered);
    }
    // In a panic what the checks say counts for nothing: to try is better than to overwhelm the few that are left. Where
    // something else takes over, it does. Who asks for one instance has looked at its checks.
    let ignores_checks = asked.is_some() || is_alone && is_panic(known);
    let is_healthy = |endpoint: &&Endpoint| ignores_checks || endpoint.status != CheckStatus::Critical;
    let healthy: Vec<&Endpoint> = known_here.into_iter().filter(is_healthy).collect();
    if healthy.is_empty() {
        return Err(Nobody::Healthy);
    }
    let (near, far) = reached(snapshot, healthy);
    // One's own network first: a gateway is for what is nowhere else.
    let reachable = if near.is_empty() && scope == Scope::Anywhere { far } else { near };
    if reachable.is_empty() {
        return Err(Nobody::InReach { network: snapshot.network.clone() });
    }
    // Never in plaintext, unless it was said that the service is outside: an instance without an agent is not dialled, and
    // one of another network could not be.
    let is_external = scope == Scope::Anywhere && snapshot.external.contains_key(&target.key.service);
    let is_dialled = |way: &Way<'_>| way.endpoint.mesh_port.is_some() || is_external && way.gateways.is_empty();
    let dialled: Vec<Way<'_>> = reachable.into_iter().filter(is_dialled).collect();
    if dialled.is_empty() {
        return Err(Nobody::Meshed);
    }
    let with_port = |way: Way<'a>| {
        let port = default_port(way.endpoint.port, &way.endpoint.ports)?;
        let mesh_port = way.endpoint.mesh_port;
        Some((way, mesh_port, port))
    };
    let callable: Vec<_> = dialled.into_iter().filter_map(with_port).collect();
    if callable.is_empty() { Err(Nobody::WithPort) } else { Ok(callable) }
}

/// Sorts instances into those that are dialled directly and those that a gateway leads to; leaves out the others.
fn reached<'a>(snapshot: &'a Snapshot, endpoints: Vec<&'a Endpoint>) -> (Vec<Way<'a>>, Vec<Way<'a>>) {
    let ways = endpoints.into_iter().filter_map(|endpoint| {
        match catalog::reach(endpoint, &snapshot.network, &snapshot.gateways) {
            // A gateway is no instance, whatever somebody registers at its address: the call would go in circles.
            Reach::Direct if leads_to_gateway(endpoint, &snapshot.gateways) => None,
            Reach::Direct => Some(Way { endpoint, gateways: Vec::new() }),
            Reach::Through(gateways) => Some(Way { endpoint, gateways }),
            Reach::Unreachable => None,
        }
    });
    ways.partition(|way| way.gateways.is_empty())
}

fn leads_to_gateway(endpoint: &Endpoint, gateways: &[Gateway]) -> bool {
    gateways.iter().any(|gateway| endpoint.mesh_port == Some(gateway.port) && endpoint.address == gateway.address)
}

/// Joins a host and a port; an IPv6 address gets its brackets.
fn host_and_port(host: &str, port: u16) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(v6) => format!("[{v6}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests;

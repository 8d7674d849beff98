//! Choosing an instance to call, and remembering which ones could not be reached.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use catalog::{Balance, CheckStatus, Endpoint, Gateway, InstanceKey, Leg, Reach, ServiceKey, Target, TargetKey};
use tokio::time::Instant;
use wire::crypto;

use crate::proxy::outbound::call_error::CallError;
use crate::proxy::snapshot::{DEFAULT_PORT_NAME, Snapshot, default_port};

/// How long an endpoint is put aside after its first failure; twice as long after each further one.
const ASIDE_MIN: Duration = Duration::from_secs(1);
/// The longest that an endpoint is put aside.
const ASIDE_MAX: Duration = Duration::from_secs(30);

/// Of fewer instances than this, the checks are always believed.
const PANIC_MIN: usize = 3;

/// Remembers how the instances that are called have fared.
#[derive(Debug)]
pub(crate) struct Endpoints {
    states: Mutex<HashMap<InstanceKey, Arc<State>>>,
    /// How often each target was chosen from that is called one instance after the other.
    turns: Mutex<HashMap<TargetKey, usize>>,
    seed: u64,
    draws: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    open: AtomicUsize,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    failures: u32,
    aside_until: Option<Instant>,
}

/// Is an instance that was chosen for a connection. While it lives, the connection counts as open there.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// Which instance.
    pub(crate) key: InstanceKey,
    /// The service that it is an instance of.
    pub(crate) service: ServiceKey,
    /// Where its agent is dialled.
    pub(crate) mesh_address: String,
    /// How a CONNECT names it.
    pub(crate) authority: String,
    state: Arc<State>,
}

/// Says which instances come into question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those of the own network, or where there are none, those that a gateway leads to.
    Anywhere,
    /// Those of the own network: what a gateway passes on goes no further.
    OwnNetwork,
}

/// Is an instance that could be called, with what that takes.
#[derive(Debug, Clone)]
struct Callable<'a> {
    endpoint: &'a Endpoint,
    /// What leads to it; empty where it is dialled directly.
    gateways: Vec<&'a Gateway>,
    mesh_port: u16,
    port: u16,
    weight: u32,
}

/// Is an instance that would be called, and whether nothing speaks against it.
#[derive(Debug)]
struct Candidate<'a> {
    callable: Callable<'a>,
    state: Arc<State>,
    service: &'a ServiceKey,
    is_fit: bool,
}

/// Is an instance with what leads to it: nothing where it is dialled directly.
#[derive(Debug)]
struct Way<'a> {
    endpoint: &'a Endpoint,
    gateways: Vec<&'a Gateway>,
}

/// Is what the choice between instances goes by.
#[derive(Debug, Clone, Copy)]
struct Load {
    open: usize,
    weight: u32,
    aside: bool,
}

impl Default for Endpoints {
    fn default() -> Self {
        let seed = u64::from_le_bytes(crypto::random());
        Self { states: Mutex::default(), turns: Mutex::default(), seed, draws: AtomicU64::new(0) }
    }
}

impl Endpoints {
    /// Chooses an instance that has not been tried yet, of the first target that has one in good health.
    ///
    /// Endpoints that were put aside come into play only when no other is left, of any target: to try them is better than to
    /// refuse.
    ///
    /// # Errors
    ///
    /// Why no instance of the first target can be called; after the last has been tried, that none is healthy.
    pub(crate) fn choose(
        &self,
        snapshot: &Snapshot,
        leg: &Leg,
        scope: Scope,
        tried: &[InstanceKey],
        now: Instant,
    ) -> Result<Chosen, CallError> {
        let (mut last_resort, mut failure) = (None, None);
        let is_alone = leg.targets.len() == 1;
        for target in &leg.targets {
            match self.candidate(snapshot, target, (leg.balance, is_alone, scope), tried, now) {
                Ok(candidate) if candidate.is_fit => return Ok(self.take(candidate)),
                Ok(candidate) => drop(last_resort.get_or_insert(candidate)),
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        match (last_resort, failure) {
            (Some(candidate), _) => Ok(self.take(candidate)),
            (None, Some(error)) => Err(error),
            (None, None) => Err(CallError::NoRoute),
        }
    }

    /// Finds the instance of one target that would be called.
    fn candidate<'a>(
        &self,
        snapshot: &'a Snapshot,
        target: &'a Target,
        (balance, is_alone, scope): (Balance, bool, Scope),
        tried: &[InstanceKey],
        now: Instant,
    ) -> Result<Candidate<'a>, CallError> {
        let mut left = callable(snapshot, target, is_alone, scope)?;
        let known = left.len();
        left.retain(|callable| !tried.contains(&callable.endpoint.key));
        let states: Vec<Arc<State>> = {
            let mut states = self.lock();
            left.iter().map(|callable| Arc::clone(states.entry(callable.endpoint.key.clone()).or_default())).collect()
        };
        let loads: Vec<Load> =
            left.iter().zip(&states).map(|(callable, state)| state.load(callable.weight, now)).collect();
        let picked = match balance {
            Balance::LeastRequest => pick(&loads, |bound| self.draw(bound)),
            Balance::RoundRobin => one_of(&loads, |field| self.turn(&target.key) % field.len().max(1)),
            Balance::Random => one_of(&loads, |field| self.draw(field.len())),
        };
        let service = &target.key.service;
        let chosen = picked.and_then(|index| Some((left.get(index)?, states.get(index)?, loads.get(index)?)));
        match chosen {
            Some((callable, state, load)) => {
                let (callable, state) = (callable.clone(), Arc::clone(state));
                Ok(Candidate { callable, state, service, is_fit: load.is_fit() })
            }
            None => Err(CallError::NoHealthyEndpoint { destination: service.clone(), known }),
        }
    }

    /// Counts a call as open at an instance.
    fn take(&self, candidate: Candidate<'_>) -> Chosen {
        let Candidate { callable, state, service, .. } = candidate;
        state.open.fetch_add(1, Ordering::Relaxed);
        Chosen {
            key: callable.endpoint.key.clone(),
            service: service.clone(),
            mesh_address: self.mesh_address(&callable),
            authority: authority(&callable, service),
            state,
        }
    }

    /// Counts up what is chosen from in turn.
    fn turn(&self, target: &TargetKey) -> usize {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        match turns.get_mut(target) {
            Some(turn) => {
                *turn = turn.wrapping_add(1);
                *turn
            }
            None => *turns.entry(target.clone()).or_default(),
        }
    }

    /// Returns where an instance is dialled: at its agent's address, or at a gateway's, drawn from several.
    fn mesh_address(&self, callable: &Callable<'_>) -> String {
        match callable.gateways.get(self.draw(callable.gateways.len())) {
            Some(gateway) => host_and_port(&gateway.address, gateway.port),
            None => host_and_port(&callable.endpoint.address, callable.mesh_port),
        }
    }

    /// Forgets the instances that a snapshot no longer has.
    pub(crate) fn retain(&self, snapshot: &Snapshot) {
        let known: HashSet<&InstanceKey> =
            snapshot.endpoints.values().flatten().map(|endpoint| &endpoint.key).collect();
        self.lock().retain(|key, _| known.contains(key));
        let targets: HashSet<&TargetKey> =
            snapshot.routes.values().flat_map(|routes| routes.targets()).map(|target| &target.key).collect();
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| targets.contains(key));
    }

    /// Draws a number below `bound`. Good enough to spread load, and nothing else hangs on it (SplitMix64).
    fn draw(&self, bound: usize) -> usize {
        usize::try_from(self.draw_any() % (bound.max(1) as u64)).unwrap_or(0)
    }

    /// Draws any number.
    pub(crate) fn draw_any(&self) -> u64 {
        let count = self.draws.fetch_add(1, Ordering::Relaxed);
        let mut bits = self.seed.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceKey, Arc<State>>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    /// Reports whether nothing speaks against the instance: it did not just fail, and it asks for traffic.
    fn is_fit(&self) -> bool {
        !self.aside && self.weight > 0
    }
}

impl State {
    fn load(&self, weight: u32, now: Instant) -> Load {
        let aside = self.trouble().aside_until.is_some_and(|until| now < until);
        Load { open: self.open.load(Ordering::Relaxed), weight, aside }
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chosen {
    /// Records that the instance was reached.
    pub(crate) fn succeeded(&self) {
        *self.state.trouble() = Trouble::default();
    }

    /// Records that the instance was not reached, and puts it aside for a while.
    pub(crate) fn failed(&self, now: Instant) {
        let mut trouble = self.state.trouble();
        let aside = ASIDE_MIN.saturating_mul(2_u32.saturating_pow(trouble.failures)).min(ASIDE_MAX);
        trouble.failures = trouble.failures.saturating_add(1);
        trouble.aside_until = Some(now + aside);
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.state.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reports whether so many instances are unhealthy at once that their checks are likelier to be wrong than right: more than
/// half, of three or more.
pub(crate) fn is_panic(known: &[Endpoint]) -> bool {
    let healthy = known.iter().filter(|endpoint| endpoint.status != CheckStatus::Critical).count();
    known.len() >= PANIC_MIN && healthy * 2 < known.len()
}

/// Finds the instances that could be called at all; says why there is none.
fn callable<'a>(
    snapshot: &'a Snapshot,
    target: &Target,
    is_alone: bool,
    scope: Scope,
) -> Result<Vec<Callable<'a>>, CallError> {
    // A gateway picks among all instances of a service.
    let scope = if target.is_whole() { scope } else { Scope::OwnNetwork };
    let known = snapshot.instances(target);
    let destination = || target.key.service.clone();
    if known.is_empty() {
        return Err(CallError::NoEndpoint { destination: destination() });
    }
    // In a panic what the checks say counts for nothing: to try is better than to overwhelm the few that are left. Where
    // something else takes over, it does.
    let ignores_checks = is_alone && is_panic(known);
    let healthy: Vec<&Endpoint> =
        known.iter().filter(|endpoint| ignores_checks || endpoint.status != CheckStatus::Critical).collect();
    if healthy.is_empty() {
        return Err(CallError::NoHealthyEndpoint { destination: destination(), known: known.len() });
    }
    let (near, far) = reached(snapshot, healthy);
    // One's own network first: a gateway is for what is nowhere else.
    let reachable = if near.is_empty() && scope == Scope::Anywhere { far } else { near };
    if reachable.is_empty() {
        return Err(CallError::OtherNetwork { destination: destination(), network: snapshot.network.clone() });
    }
    // Never in plaintext: an instance without an agent is not dialled.
    let meshed: Vec<(Way<'_>, u16)> =
        reachable.into_iter().filter_map(|way| way.endpoint.mesh_port.map(|mesh_port| (way, mesh_port))).collect();
    if meshed.is_empty() {
        return Err(CallError::NoMeshPort { destination: destination() });
    }
    let callable: Vec<Callable<'_>> = meshed
        .into_iter()
        .filter_map(|(Way { endpoint, gateways }, mesh_port)| {
            let port = default_port(endpoint.port, &endpoint.ports)?;
            let weight = match endpoint.status {
                CheckStatus::Warning => endpoint.weights.warning,
                _ => endpoint.weights.passing,
            };
            Some(Callable { endpoint, gateways, mesh_port, port, weight })
        })
        .collect();
    if callable.is_empty() {
        return Err(CallError::NoPort { destination: destination() });
    }
    Ok(callable)
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

/// Picks the one of the best instances that `choice` says, by number.
fn one_of(loads: &[Load], choice: impl FnOnce(&[usize]) -> usize) -> Option<usize> {
    let field = best(loads);
    field.get(choice(&field)).copied()
}

/// Returns the instances that come into question: those that nothing speaks against, or else all that are left.
fn best(loads: &[Load]) -> Vec<usize> {
    // From the most to the least demanding: weight 0 asks for no traffic, and aside means that it just failed.
    let wanted = |accepts: fn(&Load) -> bool| -> Vec<usize> {
        loads.iter().enumerate().filter(|(_, load)| accepts(load)).map(|(index, _)| index).collect()
    };
    let best = [wanted(Load::is_fit), wanted(|load| load.weight > 0), (0..loads.len()).collect()];
    best.into_iter().find(|field| !field.is_empty()).unwrap_or_default()
}

/// Picks one of several instances; `draw` gives a number below its argument.
fn pick(loads: &[Load], mut draw: impl FnMut(usize) -> usize) -> Option<usize> {
    let field = best(loads);
    if field.is_empty() {
        return None;
    }
    let first = draw(field.len());
    // Drawn from the others, so that the two are never the same one.
    let second = (first + 1 + draw(field.len().saturating_sub(1))) % field.len();
    let (first, second) = (*field.get(first)?, *field.get(second)?);
    let (one, other) = (loads.get(first)?, loads.get(second)?);
    // open / weight, compared without a division.
    let burden = |load: &Load, rival: &Load| (load.open as u128 + 1) * u128::from(rival.weight.max(1));
    Some(if burden(other, one) < burden(one, other) { second } else { first })
}

/// Returns how a CONNECT names an instance. A gateway goes by the service that the TLS client asks for and picks the instance
/// itself, so that behind one only the service can be named.
fn authority(callable: &Callable<'_>, destination: &ServiceKey) -> String {
    if callable.gateways.is_empty() {
        return host_and_port(&callable.endpoint.address, callable.port);
    }
    let Endpoint { port, ports, .. } = callable.endpoint;
    let named = ports.keys().next().filter(|_| *port == 0).map_or(DEFAULT_PORT_NAME, String::as_str);
    format!("{}.{}:{named}", destination.name, destination.namespace)
}

/// Joins a host and a port; an IPv6 address gets its brackets.
fn host_and_port(host: &str, port: u16) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(v6) => format!("[{v6}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Picks with a fixed row of draws.
    #[track_caller]
    fn check(loads: &[(usize, u32, bool)], draws: &[usize], want: Option<usize>) {
        let loads: Vec<Load> = loads.iter().map(|&(open, weight, aside)| Load { open, weight, aside }).collect();
        let mut draws = draws.iter().copied();
        assert_eq!(pick(&loads, |bound| draws.next().unwrap_or(0) % bound.max(1)), want, "{loads:?}");
    }

    #[test]
    fn of_two_endpoints_the_less_loaded_for_its_weight_is_taken() {
        check(&[], &[0, 0], None);
        check(&[(9, 1, false)], &[0, 0], Some(0));
        check(&[(3, 1, false), (2, 1, false)], &[0, 0], Some(1));
        check(&[(3, 1, false), (2, 1, false)], &[1, 0], Some(1));
        check(&[(3, 2, false), (2, 1, false)], &[1, 0], Some(0));
        check(&[(5, 1, false), (9, 1, false), (1, 1, false)], &[0, 0], Some(0));
        check(&[(5, 1, false), (9, 1, false), (1, 1, false)], &[0, 1], Some(2));
    }

    #[test]
    fn an_endpoint_put_aside_or_of_weight_zero_is_taken_only_when_no_other_is_left() {
        check(&[(0, 1, true), (50, 1, false)], &[0, 0], Some(1));
        check(&[(0, 0, false), (50, 1, false)], &[0, 0], Some(1));
        check(&[(0, 0, false), (50, 1, true)], &[0, 0], Some(1));
        check(&[(7, 1, true), (3, 1, true)], &[0, 0], Some(1));
        check(&[(0, 0, false)], &[0, 0], Some(0));
    }

    #[test]
    fn draws_reach_every_endpoint() {
        let endpoints = Endpoints::default();
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[endpoints.draw(5)] += 1;
        }
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
    }

    #[test]
    fn an_endpoint_is_put_aside_for_longer_each_time_and_at_most_for_so_long() {
        let state = Arc::new(State::default());
        let now = Instant::now();
        let chosen = |state: &Arc<State>| {
            state.open.fetch_add(1, Ordering::Relaxed);
            let key = InstanceKey {
                node: "n".parse().unwrap(),
                namespace: "default".parse().unwrap(),
                id: "i".parse().unwrap(),
            };
            let service = "api".parse().unwrap();
            Chosen { key, service, mesh_address: String::new(), authority: String::new(), state: Arc::clone(state) }
        };
        let mut asides = Vec::new();
        for _ in 0..7 {
            chosen(&state).failed(now);
            asides.push((state.trouble().aside_until.unwrap() - now).as_secs());
        }
        assert_eq!(asides, [1, 2, 4, 8, 16, 30, 30]);
        chosen(&state).succeeded();
        assert!(!state.load(1, now).aside);
        assert_eq!(state.load(1, now).open, 0);
    }

    #[test]
    fn an_ipv6_address_gets_brackets_before_its_port() {
        assert_eq!(host_and_port("fd00::1", 80), "[fd00::1]:80");
        assert_eq!(host_and_port("10.0.0.1", 80), "10.0.0.1:80");
        assert_eq!(host_and_port("db.example", 80), "db.example:80");
    }
}

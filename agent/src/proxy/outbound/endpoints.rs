//! Choosing an instance to call, and remembering which ones could not be reached.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use catalog::{CheckStatus, Endpoint, Gateway, InstanceKey, Reach, ServiceKey};
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
        Self { states: Mutex::default(), seed, draws: AtomicU64::new(0) }
    }
}

impl Endpoints {
    /// Chooses an instance of a service that has not been tried yet.
    ///
    /// Of two drawn at random it takes the one with fewer open connections for its weight. Endpoints that were put aside
    /// come into play only when no other is left: to try them is better than to refuse.
    ///
    /// # Errors
    ///
    /// Why no instance of the service can be called; after the last has been tried, that none is healthy.
    pub(crate) fn choose(
        &self,
        snapshot: &Snapshot,
        destination: &ServiceKey,
        scope: Scope,
        tried: &[InstanceKey],
        now: Instant,
    ) -> Result<Chosen, CallError> {
        let mut left = callable(snapshot, destination, scope)?;
        let known = left.len();
        left.retain(|callable| !tried.contains(&callable.endpoint.key));
        let states: Vec<Arc<State>> = {
            let mut states = self.lock();
            left.iter().map(|callable| Arc::clone(states.entry(callable.endpoint.key.clone()).or_default())).collect()
        };
        let loads: Vec<Load> =
            left.iter().zip(&states).map(|(callable, state)| state.load(callable.weight, now)).collect();
        let picked = pick(&loads, |bound| self.draw(bound));
        let Some((callable, state)) = picked.and_then(|index| left.get(index).zip(states.get(index))) else {
            return Err(CallError::NoHealthyEndpoint { destination: destination.clone(), known });
        };
        state.open.fetch_add(1, Ordering::Relaxed);
        Ok(Chosen {
            key: callable.endpoint.key.clone(),
            mesh_address: self.mesh_address(callable),
            authority: authority(callable, destination),
            state: Arc::clone(state),
        })
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
    }

    /// Draws a number below `bound`. Good enough to spread load, and nothing else hangs on it (SplitMix64).
    fn draw(&self, bound: usize) -> usize {
        let count = self.draws.fetch_add(1, Ordering::Relaxed);
        let mut bits = self.seed.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        usize::try_from(bits % (bound.max(1) as u64)).unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceKey, Arc<State>>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
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
    destination: &ServiceKey,
    scope: Scope,
) -> Result<Vec<Callable<'a>>, CallError> {
    let known = snapshot.endpoints.get(destination).map(Vec::as_slice).unwrap_or_default();
    let destination = || destination.clone();
    if known.is_empty() {
        return Err(CallError::NoEndpoint { destination: destination() });
    }
    // In a panic what the checks say counts for nothing: to try is better than to overwhelm the few that are left.
    let ignores_checks = is_panic(known);
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

/// Picks one of several instances; `draw` gives a number below its argument.
fn pick(loads: &[Load], mut draw: impl FnMut(usize) -> usize) -> Option<usize> {
    let all: Vec<usize> = (0..loads.len()).collect();
    // From the most to the least demanding: weight 0 asks for no traffic, and aside means that it just failed.
    let wanted = |accepts: fn(&Load) -> bool| -> Vec<usize> {
        loads.iter().enumerate().filter(|(_, load)| accepts(load)).map(|(index, _)| index).collect()
    };
    let best = [wanted(|load| !load.aside && load.weight > 0), wanted(|load| load.weight > 0), all];
    let field = best.iter().find(|field| !field.is_empty())?;
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
            Chosen { key, mesh_address: String::new(), authority: String::new(), state: Arc::clone(state) }
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

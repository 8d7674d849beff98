//! The certificate authority: what rotates, what agents acknowledged of it, and what is trusted no longer.
//!
//! A step that the state has passed already is refused and changes nothing, so that a leader may propose it twice and the
//! next leader may go on where the last one stopped.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{Attempt, Catalog, Touched};
use crate::{
    AgentId, CaChange, CaConfig, CaIntermediate, CaRoot, CaRotation, CatalogIndex, DistrustedRoot, Outcome, Refusal,
    Resealed, RootsAck, RotationStep, SealedKind, SealedSecret, Timestamp, TrustBundle, WatchKey,
};

/// Holds what there is of the authority beside its certificates.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaState {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rotation: Option<CaRotation>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) distrusted: BTreeMap<String, DistrustedRoot>,
    #[serde(default)]
    pub(crate) config: CaConfig,
    /// Of each root that is in the bundle, how long leaves lived before the present setting.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) leaf_lives: BTreeMap<String, LeafLives>,
}

/// Is what was set for leaves while a root was in the bundle, and is no longer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeafLives {
    /// The longest that was set.
    longest_ms: u64,
    /// Whether nothing was set, so that each server's own setting counted.
    #[serde(default)]
    was_unset: bool,
}

fn moved_on(problem: impl Into<String>) -> Refusal {
    Refusal::CaMovedOn { problem: problem.into() }
}

fn keep<T>(map: &mut OrdMap<String, Arc<T>>, is_kept: impl Fn(&T) -> bool) {
    *map = map.iter().filter(|(_, one)| is_kept(one)).map(|(id, one)| (id.clone(), Arc::clone(one))).collect();
}

impl Catalog {
    /// Returns the rotation of the root that is under way.
    #[must_use]
    pub fn ca_rotation(&self) -> Option<&CaRotation> {
        self.ca.rotation.as_ref()
    }

    /// Returns what agents said of the roots that they have in force, since the rotation began.
    pub fn roots_acks(&self) -> impl Iterator<Item = (&AgentId, RootsAck)> {
        self.roots_acks.iter().map(|(agent, ack)| (agent, *ack))
    }

    /// Returns what an agent said of the roots that it has in force, since the rotation began.
    #[must_use]
    pub fn roots_ack(&self, agent: &AgentId) -> Option<RootsAck> {
        self.roots_acks.get(agent).copied()
    }

    /// Returns how long certificates live, as far as an operator has set it.
    #[must_use]
    pub fn ca_config(&self) -> &CaConfig {
        &self.ca.config
    }

    /// Returns the longest life of a leaf that was or is in force since a root came into the bundle; `unset` is the one of
    /// servers to whom nothing is set.
    #[must_use]
    pub fn longest_leaf_ttl(&self, root: &str, unset: Duration) -> Duration {
        let lives = self.ca.leaf_lives.get(root).copied().unwrap_or_default();
        let past = if lives.was_unset { unset } else { Duration::ZERO };
        self.ca.config.leaf_ttl().unwrap_or(unset).max(past).max(Duration::from_millis(lives.longest_ms))
    }

    /// Returns the roots that were distrusted on purpose and would not have expired yet, by id.
    pub fn distrusted_roots(&self) -> impl Iterator<Item = (&String, &DistrustedRoot)> {
        self.ca.distrusted.iter()
    }

    /// Returns the time that the commands applied so far have brought: what steps that must not be hurried go by.
    #[must_use]
    pub fn clock(&self) -> Timestamp {
        self.clock
    }

    /// Returns a root.
    #[must_use]
    pub fn root(&self, id: &str) -> Option<&CaRoot> {
        self.roots.get(id).map(|root| &**root)
    }

    /// Returns the roots under which agents may renew, retired ones included: an agent that was away for longer than a
    /// rotation takes still has the key that its record names.
    #[must_use]
    pub fn renewal_bundles(&self) -> Vec<TrustBundle> {
        let own = self.mesh().map(|mesh| TrustBundle {
            trust_domain: mesh.trust_domain.clone(),
            roots_pem: self.roots().map(|root| root.certificate_pem.clone()).collect(),
        });
        own.into_iter().collect()
    }

    /// Returns every sealed secret with the record that it is part of.
    pub fn sealed_secrets(&self) -> impl Iterator<Item = (SealedKind, &str, &SealedSecret)> {
        let roots = self
            .roots
            .values()
            .filter_map(|root| root.sealed_key.as_ref().map(|sealed| (SealedKind::Root, root.id.as_str(), sealed)));
        let intermediates = self.intermediates.values().filter_map(|one| {
            one.sealed_key.as_ref().map(|sealed| (SealedKind::Intermediate, one.id.as_str(), sealed))
        });
        roots.chain(intermediates)
    }

    pub(super) fn change_ca(
        &mut self,
        index: CatalogIndex,
        proposed_at: Timestamp,
        change: &CaChange,
        not_before: Option<Timestamp>,
        touched: &mut Touched,
    ) -> Attempt {
        if let Some(not_before) = not_before.filter(|not_before| self.clock < *not_before) {
            return Err(Refusal::TooEarly { left_s: not_before.since(self.clock).as_secs().max(1) });
        }
        let outcome = match change {
            CaChange::StartRotation { root, intermediate, replaces, distrust_replaced } => {
                self.check_replaces_root(root, replaces)?;
                let rotation = CaRotation {
                    root_id: root.id.clone(),
                    replaces: replaces.clone(),
                    step: RotationStep::Distributing,
                    distrust_replaced: *distrust_replaced,
                    distributed: index,
                    started_at: proposed_at,
                    activated: None,
                    activated_at: None,
                };
                self.start_rotation(index, rotation, root, intermediate);
                Outcome::RotationBegun { root: root.id.clone(), distrusts_replaced: *distrust_replaced }
            }
            CaChange::CancelRotation { root } => {
                self.rotation_of(root, RotationStep::Distributing)?;
                self.roots.remove(root);
                keep(&mut self.intermediates, |one| one.root_id != *root);
                self.end_rotation();
                Outcome::Done
            }
            CaChange::Activate { root } => self.activate(index, proposed_at, root).map(|()| Outcome::Done)?,
            CaChange::RenewIntermediate { intermediate, replaces } => {
                self.renew_intermediate(index, intermediate, replaces).map(|()| Outcome::Done)?
            }
            CaChange::Retire { root } => self.retire(index, root, touched).map(|()| Outcome::Done)?,
            CaChange::Distrust { root } => self.distrust(index, root, touched).map(|()| Outcome::Done)?,
            // The rest leaves the roots as they are.
            CaChange::Acknowledge { acks } => return self.acknowledge(acks, touched),
            CaChange::Finish { root } => return self.finish_rotation(root, touched),
            CaChange::Configure { config, compare } => return self.configure_ca(index, config, *compare, touched),
            CaChange::Reseal { secrets } => return Ok(self.reseal(index, secrets, touched)),
        };
        let roots = &self.roots;
        self.ca.leaf_lives.retain(|id, _| roots.get(id).is_some_and(|root| !root.retired));
        touched.changed(WatchKey::Roots);
        touched.changed(WatchKey::CaRotation);
        Ok(outcome)
    }

    fn start_rotation(
        &mut self,
        index: CatalogIndex,
        rotation: CaRotation,
        root: &CaRoot,
        intermediate: &CaIntermediate,
    ) {
        self.put_root(CaRoot { created: index, active: false, ..root.clone() }, index);
        self.put_intermediate(CaIntermediate { created: index, active: false, ..intermediate.clone() }, index);
        self.roots_acks = OrdMap::new();
        self.ca.rotation = Some(rotation);
    }

    fn finish_rotation(&mut self, root: &str, touched: &mut Touched) -> Attempt {
        self.rotation_of(root, RotationStep::Reissuing)?;
        self.end_rotation();
        touched.changed(WatchKey::CaRotation);
        Ok(Outcome::Done)
    }

    fn configure_ca(
        &mut self,
        index: CatalogIndex,
        config: &CaConfig,
        compare: Option<CatalogIndex>,
        touched: &mut Touched,
    ) -> Attempt {
        let modified = self.ca.config.modified;
        if let Some(expected) = compare.filter(|expected| *expected != modified) {
            return Err(Refusal::EntryChanged { name: "connect/ca/configuration".to_owned(), modified, expected });
        }
        self.note_leaf_life();
        let created = if modified.0 == 0 { index } else { self.ca.config.created };
        self.ca.config = CaConfig { created, modified: index, ..config.clone() };
        touched.changed(WatchKey::CaRotation);
        Ok(Outcome::Done)
    }

    /// Notes how long leaves live before another life is set: those under the present roots may live on for as long.
    fn note_leaf_life(&mut self) {
        let present = self.ca.config.leaf_ttl_ms;
        let vouching: Vec<String> = self.roots().filter(|root| !root.retired).map(|root| root.id.clone()).collect();
        for id in vouching {
            let lives = self.ca.leaf_lives.entry(id).or_default();
            lives.longest_ms = lives.longest_ms.max(present.unwrap_or_default());
            lives.was_unset |= present.is_none();
        }
    }

    fn put_root(&mut self, root: CaRoot, index: CatalogIndex) {
        self.roots.insert(root.id.clone(), Arc::new(CaRoot { modified: index, ..root }));
    }

    fn put_intermediate(&mut self, one: CaIntermediate, index: CatalogIndex) {
        self.intermediates.insert(one.id.clone(), Arc::new(CaIntermediate { modified: index, ..one }));
    }

    fn check_replaces_root(&self, root: &CaRoot, replaces: &str) -> Result<(), Refusal> {
        if let Some(rotation) = &self.ca.rotation {
            return Err(moved_on(format!("a rotation to root `{}` is under way already", rotation.root_id)));
        }
        if self.active_root().is_none_or(|active| active.id != replaces) {
            return Err(moved_on(format!("root `{replaces}` is not the active one any more")));
        }
        if self.roots.contains_key(&root.id) {
            return Err(Refusal::exists("root", &root.id));
        }
        if self.ca.distrusted.contains_key(&root.id) {
            return Err(Refusal::invalid(format!("root `{}`", root.id), "it was distrusted: use another one"));
        }
        Ok(())
    }

    fn rotation_of(&self, root: &str, step: RotationStep) -> Result<&CaRotation, Refusal> {
        let found = self.ca.rotation.as_ref().filter(|rotation| rotation.root_id == root && rotation.step == step);
        found.ok_or_else(|| moved_on(format!("no rotation to root `{root}` is at this step")))
    }

    fn end_rotation(&mut self) {
        self.ca.rotation = None;
        self.roots_acks = OrdMap::new();
    }

    /// Goes on, from `index`, with a rotation that was begun in another log: whatever agents said of that one is void.
    pub(super) fn take_over_rotation(&mut self, index: CatalogIndex) {
        self.roots_acks = OrdMap::new();
        if let Some(rotation) = &mut self.ca.rotation {
            rotation.distributed = index;
            rotation.activated = rotation.activated.map(|_| index);
        }
    }

    fn acknowledge(&mut self, acks: &BTreeMap<AgentId, RootsAck>, touched: &mut Touched) -> Attempt {
        if self.ca.rotation.is_none() {
            return Err(moved_on("no rotation is under way"));
        }
        for (agent, ack) in acks {
            let known = self.roots_acks.get(agent).copied();
            // A voice from an older session, or by way of a slower server, takes nothing back.
            if known == Some(*ack)
                || known.is_some_and(|known| known.roots > ack.roots)
                || !self.agents.contains_key(agent)
            {
                continue;
            }
            self.roots_acks.insert(agent.clone(), *ack);
            touched.changed(WatchKey::CaRotation);
        }
        Ok(Outcome::Done)
    }

    fn activate(&mut self, index: CatalogIndex, at: Timestamp, root: &str) -> Result<(), Refusal> {
        let rotation = self.rotation_of(root, RotationStep::Distributing)?.clone();
        let next = self.root(root).cloned().ok_or_else(|| Refusal::not_found("root", root))?;
        let old = self.root(&rotation.replaces).cloned();
        let own = self.intermediates().find(|one| one.root_id == root).cloned();
        let own = own.ok_or_else(|| Refusal::not_found("intermediate of root", root))?;
        if let Some(old) = old {
            // It has certified its successor: nobody needs its key any more.
            self.put_root(CaRoot { active: false, replaced_at: Some(at), sealed_key: None, ..old }, index);
        }
        self.put_root(CaRoot { active: true, ..next }, index);
        self.sign_with(index, own);
        self.ca.rotation = Some(CaRotation {
            step: RotationStep::Reissuing,
            activated: Some(index),
            activated_at: Some(at),
            ..rotation
        });
        Ok(())
    }

    /// Makes an intermediate the one that signs; the key of the one before is dropped, and so is what has expired.
    fn sign_with(&mut self, index: CatalogIndex, next: CaIntermediate) {
        let replaced: Vec<CaIntermediate> = self.intermediates().filter(|one| one.active).cloned().collect();
        for old in replaced {
            self.put_intermediate(CaIntermediate { active: false, sealed_key: None, ..old }, index);
        }
        self.put_intermediate(CaIntermediate { active: true, ..next }, index);
        let clock = self.clock;
        keep(&mut self.intermediates, |one| one.active || one.sealed_key.is_some() || one.not_after > clock);
    }

    fn renew_intermediate(
        &mut self,
        index: CatalogIndex,
        intermediate: &CaIntermediate,
        replaces: &str,
    ) -> Result<(), Refusal> {
        let active = self.active_intermediate().filter(|active| active.id == replaces);
        let active =
            active.ok_or_else(|| moved_on(format!("intermediate `{replaces}` is not the active one any more")))?;
        if active.root_id != intermediate.root_id {
            return Err(moved_on(format!("root `{}` is not the active one", intermediate.root_id)));
        }
        if self.intermediates.contains_key(&intermediate.id) {
            return Err(Refusal::exists("intermediate", &intermediate.id));
        }
        self.sign_with(index, CaIntermediate { created: index, ..intermediate.clone() });
        Ok(())
    }

    fn retire(&mut self, index: CatalogIndex, id: &str, touched: &mut Touched) -> Result<(), Refusal> {
        let root = self.root(id).cloned().ok_or_else(|| Refusal::not_found("root", id))?;
        if root.replaced_at.is_none() || root.retired {
            return Err(moved_on(format!("root `{id}` waits for no retirement")));
        }
        if self.ca.rotation.as_ref().is_some_and(|rotation| rotation.replaces == id) {
            return Err(moved_on(format!("root `{id}` is still being replaced")));
        }
        self.put_root(CaRoot { retired: true, ..root }, index);
        let clock = self.clock;
        keep(&mut self.roots, |root| !root.retired || root.not_after > clock);
        let held = self.ca.distrusted.len();
        self.ca.distrusted.retain(|_, root| root.not_after > clock);
        if self.ca.distrusted.len() < held {
            touched.changed(WatchKey::Revocations);
        }
        Ok(())
    }

    fn distrust(&mut self, index: CatalogIndex, id: &str, touched: &mut Touched) -> Result<(), Refusal> {
        let root = self.root(id).cloned().ok_or_else(|| Refusal::not_found("root", id))?;
        if root.active {
            return Err(Refusal::invalid(
                format!("root `{id}`"),
                "it is the active one, under which everybody lives: rotate first, with `weft ca rotate --distrust-old`",
            ));
        }
        let rotation = self.ca.rotation.as_ref();
        if rotation.is_some_and(|rotation| rotation.root_id == id) {
            return Err(moved_on(format!("root `{id}` is being brought in: cancel its rotation instead")));
        }
        if rotation.is_some_and(|rotation| rotation.replaces == id) {
            self.end_rotation();
        }
        // Whatever certified it vouches for all that it signs, so that it goes, too.
        let mut next = Some(root);
        while let Some(root) = next {
            next = root.cross.as_ref().and_then(|cross| self.root(&cross.signed_by)).filter(|by| !by.active).cloned();
            self.drop_distrusted(index, &root);
        }
        touched.changed(WatchKey::Revocations);
        Ok(())
    }

    fn drop_distrusted(&mut self, index: CatalogIndex, root: &CaRoot) {
        let id = root.id.as_str();
        self.roots.remove(id);
        keep(&mut self.intermediates, |one| one.root_id != id);
        let crossed: Vec<CaRoot> = self
            .roots()
            .filter(|root| root.cross.as_ref().is_some_and(|cross| cross.signed_by == id))
            .cloned()
            .collect();
        for other in crossed {
            self.put_root(CaRoot { cross: None, ..other }, index);
        }
        self.ca.distrusted.insert(id.to_owned(), DistrustedRoot { distrusted: index, not_after: root.not_after });
    }

    /// Replaces what still is as it was when it was sealed anew.
    fn reseal(&mut self, index: CatalogIndex, secrets: &[Resealed], touched: &mut Touched) -> Outcome {
        let is_meant = |sealed: &Option<SealedSecret>, secret: &Resealed| {
            sealed.as_ref().is_some_and(|sealed| sealed.nonce == secret.replaces_nonce)
        };
        for secret in secrets {
            let sealed_key = Some(secret.sealed.clone());
            match secret.of {
                SealedKind::Root => {
                    let found = self.root(&secret.id).filter(|root| is_meant(&root.sealed_key, secret)).cloned();
                    let Some(root) = found else { continue };
                    self.put_root(CaRoot { sealed_key, ..root }, index);
                }
                SealedKind::Intermediate => {
                    let found = self.intermediates.get(&secret.id).filter(|one| is_meant(&one.sealed_key, secret));
                    let Some(one) = found.map(|one| one.as_ref().clone()) else { continue };
                    self.put_intermediate(CaIntermediate { sealed_key, ..one }, index);
                }
            }
            touched.changed(WatchKey::Roots);
        }
        Outcome::Done
    }
}

#[cfg(test)]
pub(in crate::catalog) mod tests;

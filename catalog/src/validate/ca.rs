//! The form of changes of the certificate authority.

use std::time::Duration;

use crate::{CaChange, CaConfig, Refusal};

const ACKS_MAX: usize = 10_000;
const SECRETS_MAX: usize = 1_000;
const LEAF_TTL_MIN: Duration = Duration::from_secs(1);
const LEAF_TTL_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// No certificate outlives this, so that no date passes what a certificate can say.
const ROOT_TTL_MAX: Duration = Duration::from_secs(50 * 365 * 24 * 3600);
/// What signs must outlive what it signs by this much, or renewals come too close after one another.
const SIGNER_LEAVES_MIN: u32 = 4;

/// Checks what can be judged without the state.
pub(super) fn check(change: &CaChange) -> Result<(), Refusal> {
    match change {
        CaChange::StartRotation { root, intermediate, replaces, .. } => {
            if intermediate.root_id != root.id {
                let problem = format!("its root is `{}`, not `{}`", intermediate.root_id, root.id);
                return Err(Refusal::invalid("intermediate", problem));
            }
            if intermediate.sealed_key.is_none() {
                return Err(Refusal::invalid("intermediate", "it has no key, and could sign nothing"));
            }
            if root.id == *replaces {
                return Err(Refusal::invalid("root", "it is the one that it is to replace"));
            }
            Ok(())
        }
        CaChange::RenewIntermediate { intermediate, .. } if intermediate.sealed_key.is_none() => {
            Err(Refusal::invalid("intermediate", "it has no key, and could sign nothing"))
        }
        CaChange::Acknowledge { acks } => super::few("acks", acks.len(), ACKS_MAX),
        CaChange::Reseal { secrets } => super::few("secrets", secrets.len(), SECRETS_MAX),
        CaChange::Configure { config, .. } => check_config(config),
        CaChange::CancelRotation { .. }
        | CaChange::Activate { .. }
        | CaChange::Finish { .. }
        | CaChange::RenewIntermediate { .. }
        | CaChange::Retire { .. }
        | CaChange::Distrust { .. } => Ok(()),
    }
}

fn check_config(config: &CaConfig) -> Result<(), Refusal> {
    let (leaf, intermediate, root) = (config.leaf_ttl(), config.intermediate_ttl(), config.root_ttl());
    if let Some(leaf) = leaf
        && !(LEAF_TTL_MIN..=LEAF_TTL_MAX).contains(&leaf)
    {
        return Err(Refusal::invalid("LeafCertTTL", format!("it is {leaf:?}: use {LEAF_TTL_MIN:?} to 90 days")));
    }
    for (field, ttl) in [("IntermediateCertTTL", intermediate), ("RootCertTTL", root)] {
        if ttl.is_some_and(|ttl| ttl > ROOT_TTL_MAX || ttl < LEAF_TTL_MIN) {
            return Err(Refusal::invalid(field, "use one second to 50 years"));
        }
    }
    for (short, long, field) in
        [(leaf, intermediate, "IntermediateCertTTL"), (intermediate, root, "RootCertTTL"), (leaf, root, "RootCertTTL")]
    {
        if let (Some(short), Some(long)) = (short, long)
            && long < short * SIGNER_LEAVES_MIN
        {
            let problem = format!("it must be at least {SIGNER_LEAVES_MIN} times as long as what is signed under it");
            return Err(Refusal::invalid(field, problem));
        }
    }
    Ok(())
}

//! Making what the authority consists of: a root and an intermediate, sealed, at the founding and at every rotation.

use std::time::Duration;

use catalog::{
    CaChange, CaConfig, CaIntermediate, CaRoot, Catalog, CatalogIndex, Command, CrossCertificate, SealedKind,
    SealedSecret, Timestamp, TrustDomain,
};
use tracing::warn;
use wire::cluster_key::{ClusterKeys, SealContext, SealError};
use wire::crypto::Secret;
use wire::pki::{LoadError, LocalRoot, LocalSigner, OperatorsAuthority, OperatorsAuthorityError, SignError};

pub(crate) const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
pub(crate) const INTERMEDIATE_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// An operator's intermediate must live so many leaf lives yet, or it would have to be replaced before it is in use.
const OPERATORS_LEAVES_MIN: u32 = 4;

/// The kind of record that a sealed key is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SealedPart(&'static str);

pub(crate) const ROOT: SealedPart = SealedPart("ca-root");
pub(crate) const INTERMEDIATE: SealedPart = SealedPart("ca-intermediate");

impl SealedPart {
    /// Returns the part that the catalog calls so.
    pub(crate) fn of(kind: SealedKind) -> Self {
        match kind {
            SealedKind::Root => ROOT,
            SealedKind::Intermediate => INTERMEDIATE,
        }
    }

    /// Returns what a key of this kind is bound to.
    pub(crate) fn context<'a>(self, cluster_id: &'a str, id: &'a str) -> SealContext<'a> {
        SealContext { cluster_id, kind: self.0, id }
    }
}

/// Why nothing new could be made for the authority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// There is nothing yet that it could follow.
    #[error("the mesh has no certificate authority yet: try again in a moment")]
    NotReady,
    /// A key did not sign.
    #[error("cannot make a certificate for the authority of trust domain `{trust_domain}`")]
    Sign {
        trust_domain: TrustDomain,
        #[source]
        source: SignError,
    },
    /// The root's key is the operator's.
    #[error("the key of root `{root}` is not the mesh's: give a new intermediate with `weft ca set-intermediate`")]
    Operators { root: String },
    /// The root's key cannot be unsealed.
    #[error("this server cannot open the key of root `{root}`: give it the mesh's cluster key")]
    Sealed {
        root: String,
        #[source]
        source: SealError,
    },
    /// What was unsealed is not the root's key.
    #[error("the root `{root}` cannot be used")]
    Unusable {
        root: String,
        #[source]
        source: LoadError,
    },
    /// What was unsealed is no text.
    #[error("the sealed key of root `{root}` is not PEM")]
    NotText { root: String },
    /// What an operator gave cannot be the authority.
    #[error("these certificates cannot be the mesh's authority")]
    Given(#[source] OperatorsAuthorityError),
    /// What an operator gave is there already.
    #[error("the intermediate `{id}` is the mesh's already")]
    Same { id: String },
}

/// Returns what was unsealed as text.
pub(crate) fn text(unsealed: &[u8]) -> Option<Secret> {
    std::str::from_utf8(unsealed).ok().map(Secret::new)
}

/// Draws a root and an intermediate, seals their keys, and returns the command that installs them.
///
/// Only the leader calls it, once the mesh is bootstrapped; of two that race the log takes the first.
///
/// # Errors
///
/// [`AuthorityError::Sign`] if a key fails.
pub(crate) fn new_authority(
    cluster_keys: &ClusterKeys,
    cluster_id: &str,
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Result<Command, AuthorityError> {
    let seal = |part: SealedPart, id: &str, key: &Secret| seal(cluster_keys, cluster_id, part, id, key);
    let (root, intermediate) = draw(trust_domain, &CaConfig::default(), now)?;
    let (root, intermediate) = (of_root(&root, true, &seal), of_intermediate(&intermediate, &root.id(), true, &seal));
    Ok(Command::InstallCa { root: Box::new(root), intermediate: Box::new(intermediate) })
}

/// Draws a root and an intermediate that are to take over from the active ones, certified by the active root where its
/// key is here, and returns the change that brings them into the bundle.
///
/// # Errors
///
/// [`AuthorityError`] if a key cannot be opened or fails.
pub(crate) fn rotation(
    cluster_keys: &ClusterKeys,
    catalog: &Catalog,
    distrust_replaced: bool,
    now: Timestamp,
) -> Result<CaChange, AuthorityError> {
    let (mesh, active) = (catalog.mesh(), catalog.active_root());
    let (Some(mesh), Some(active)) = (mesh, active) else { return Err(AuthorityError::NotReady) };
    let seal = |part: SealedPart, id: &str, key: &Secret| seal(cluster_keys, &mesh.cluster_id, part, id, key);
    let (root, intermediate) = draw(&mesh.trust_domain, catalog.ca_config(), now)?;
    let root_record = CaRoot {
        cross: cross(cluster_keys, &mesh.cluster_id, active, root.certificate_pem(), now)?,
        ..of_root(&root, false, &seal)
    };
    Ok(CaChange::StartRotation {
        root: Box::new(root_record),
        intermediate: Box::new(of_intermediate(&intermediate, &root.id(), false, &seal)),
        replaces: active.id.clone(),
        distrust_replaced,
    })
}

/// Draws another intermediate under the active root, and returns the change that has it sign.
///
/// # Errors
///
/// [`AuthorityError::Operators`] if the root's key is not here, others if it cannot be opened or fails.
pub(crate) fn renewed_intermediate(
    cluster_keys: &ClusterKeys,
    catalog: &Catalog,
    now: Timestamp,
) -> Result<CaChange, AuthorityError> {
    let (mesh, active) = (catalog.mesh(), catalog.active_root());
    let (Some(mesh), Some(active)) = (mesh, active) else { return Err(AuthorityError::NotReady) };
    let signing = catalog.active_intermediate().ok_or(AuthorityError::NotReady)?;
    let root = open_root(cluster_keys, &mesh.cluster_id, active)?
        .ok_or_else(|| AuthorityError::Operators { root: active.id.clone() })?;
    let ttl = catalog.ca_config().intermediate_ttl().unwrap_or(INTERMEDIATE_TTL);
    let failed = |source| AuthorityError::Sign { trust_domain: mesh.trust_domain.clone(), source };
    let intermediate = root.create_intermediate(now, ttl).map_err(failed)?;
    let seal = |part: SealedPart, id: &str, key: &Secret| seal(cluster_keys, &mesh.cluster_id, part, id, key);
    let intermediate = Box::new(of_intermediate(&intermediate, &active.id, true, &seal));
    Ok(CaChange::RenewIntermediate { intermediate, replaces: signing.id.clone() })
}

/// Takes an operator's root and intermediate, and returns the change that brings them in: a rotation to another root, or
/// another intermediate under the same one.
///
/// # Errors
///
/// [`AuthorityError::Given`] names what is wrong with what was given.
pub(crate) fn operators(
    cluster_keys: &ClusterKeys,
    catalog: &Catalog,
    (root_pem, intermediate_pem, key_pem): (&str, &str, &Secret),
    leaf_ttl: Duration,
    now: Timestamp,
) -> Result<CaChange, AuthorityError> {
    let (mesh, active) = (catalog.mesh(), catalog.active_root());
    let (Some(mesh), Some(active)) = (mesh, active) else { return Err(AuthorityError::NotReady) };
    let signing = catalog.active_intermediate().ok_or(AuthorityError::NotReady)?;
    let life_min = leaf_ttl * OPERATORS_LEAVES_MIN;
    let given = OperatorsAuthority::read(root_pem, intermediate_pem, key_pem, &mesh.trust_domain, now, life_min)
        .map_err(AuthorityError::Given)?;
    let seal = |part: SealedPart, id: &str, key: &Secret| seal(cluster_keys, &mesh.cluster_id, part, id, key);
    let is_under_active = given.root_id == active.id;
    let intermediate = Box::new(of_intermediate(&given.signer, &given.root_id, is_under_active, &seal));
    if intermediate.id == signing.id {
        return Err(AuthorityError::Same { id: signing.id.clone() });
    }
    if is_under_active {
        return Ok(CaChange::RenewIntermediate { intermediate, replaces: signing.id.clone() });
    }
    let root = CaRoot {
        cross: cross(cluster_keys, &mesh.cluster_id, active, &given.root_pem, now)?,
        id: given.root_id,
        certificate_pem: given.root_pem,
        sealed_key: None,
        active: false,
        replaced_at: None,
        retired: false,
        not_before: given.root_not_before,
        not_after: given.root_not_after,
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    };
    let (root, replaces) = (Box::new(root), active.id.clone());
    Ok(CaChange::StartRotation { root, intermediate, replaces, distrust_replaced: false })
}

fn draw(
    trust_domain: &TrustDomain,
    config: &CaConfig,
    now: Timestamp,
) -> Result<(LocalRoot, LocalSigner), AuthorityError> {
    let failed = |source| AuthorityError::Sign { trust_domain: trust_domain.clone(), source };
    let root = LocalRoot::create(trust_domain, now, config.root_ttl().unwrap_or(ROOT_TTL)).map_err(failed)?;
    let ttl = config.intermediate_ttl().unwrap_or(INTERMEDIATE_TTL);
    let intermediate = root.create_intermediate(now, ttl).map_err(failed)?;
    Ok((root, intermediate))
}

/// Opens a root's key; nothing where the key is an operator's.
pub(super) fn open_root(
    cluster_keys: &ClusterKeys,
    cluster_id: &str,
    root: &CaRoot,
) -> Result<Option<LocalRoot>, AuthorityError> {
    let id = || root.id.clone();
    let Some(sealed) = &root.sealed_key else { return Ok(None) };
    let opened = cluster_keys
        .open(&ROOT.context(cluster_id, &root.id), sealed)
        .map_err(|source| AuthorityError::Sealed { root: id(), source })?;
    let key_pem = text(&opened).ok_or_else(|| AuthorityError::NotText { root: id() })?;
    let opened = LocalRoot::load(&root.certificate_pem, &key_pem)
        .map_err(|source| AuthorityError::Unusable { root: id(), source })?;
    Ok(Some(opened))
}

/// Checks that this server can open the active root's key, where it is the mesh's.
pub(crate) fn can_be_opened(cluster_keys: &ClusterKeys, catalog: &Catalog) -> Result<(), AuthorityError> {
    let (Some(mesh), Some(active)) = (catalog.mesh(), catalog.active_root()) else {
        return Err(AuthorityError::NotReady);
    };
    open_root(cluster_keys, &mesh.cluster_id, active).map(drop)
}

/// Has the active root certify the next one. Where it cannot, agents that have not heard of the next one must be waited
/// for, and join tokens made before it are void: that is said, and no reason not to rotate.
fn cross(
    cluster_keys: &ClusterKeys,
    cluster_id: &str,
    active: &CaRoot,
    next_pem: &str,
    now: Timestamp,
) -> Result<Option<CrossCertificate>, AuthorityError> {
    let Some(root) = open_root(cluster_keys, cluster_id, active)? else { return Ok(None) };
    match root.cross_sign(next_pem, now) {
        Ok(certificate_pem) => Ok(Some(CrossCertificate { signed_by: active.id.clone(), certificate_pem })),
        Err(error) => {
            let error = wire::one_line(&error);
            warn!(root = active.id, error, "the next root is not certified by this one");
            Ok(None)
        }
    }
}

fn seal(keys: &ClusterKeys, cluster_id: &str, part: SealedPart, id: &str, key_pem: &Secret) -> SealedSecret {
    keys.seal(&part.context(cluster_id, id), key_pem.expose().as_bytes())
}

fn of_root(root: &LocalRoot, active: bool, seal: &dyn Fn(SealedPart, &str, &Secret) -> SealedSecret) -> CaRoot {
    let id = root.id();
    CaRoot {
        certificate_pem: root.certificate_pem().to_owned(),
        sealed_key: Some(seal(ROOT, &id, &root.key_pem())),
        active,
        cross: None,
        replaced_at: None,
        retired: false,
        not_before: root.not_before(),
        not_after: root.not_after(),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
        id,
    }
}

fn of_intermediate(
    signer: &LocalSigner,
    root_id: &str,
    active: bool,
    seal: &dyn Fn(SealedPart, &str, &Secret) -> SealedSecret,
) -> CaIntermediate {
    let id = signer.id();
    CaIntermediate {
        certificate_pem: LocalSigner::certificate_pem(signer).to_owned(),
        sealed_key: Some(seal(INTERMEDIATE, &id, &signer.key_pem())),
        active,
        not_before: signer.not_before(),
        not_after: LocalSigner::not_after(signer),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
        root_id: root_id.to_owned(),
        id,
    }
}

//! The injector's own certificate authority: kept in the cluster, told to the API server, replaced before it ends.
//!
//! Every replica does this, and none needs to lead: what they write is guarded by the version that they read. A new root is
//! told before anything is signed under it, and the one before it goes on being told, so that no call meets a certificate
//! that its caller does not know.

use std::time::Duration;

use catalog::{CatalogIndex, Timestamp, TrustDomain};
use wire::api_name::ApiName;
use wire::crypto::Secret;
use wire::pki::{LeafKey, LoadError, LocalRoot, LocalSigner, Serial, SignError, parse_csr};
use wire::tls::{ApiCertificate, ApiCertificateError};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a root is good for.
const ROOT_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// With so little left it is replaced.
const ROOT_REPLACED_BEFORE: Duration = Duration::from_secs(120 * 24 * 3600);
/// How long a replica's own certificate is good for; it is replaced at half of that.
const CERTIFICATE_TTL: Duration = Duration::from_secs(2 * 24 * 3600);
/// How long all API servers are given to hear of a root before something is signed under it.
const HEARD_AFTER: Duration = Duration::from_secs(60);
/// Names the authority; nothing in the mesh trusts it.
const TRUST_DOMAIN: &str = "injector.weft.invalid";

/// Is what is kept in the cluster.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) root_pem: String,
    pub(super) key_pem: Secret,
    /// The root before it, while somebody may still show a certificate under that.
    pub(super) earlier_pem: Option<String>,
}

/// Is what one look at the cluster found.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// What is kept; nothing where nobody has kept anything yet, or it cannot be read.
    pub(super) kept: Option<Kept>,
    /// The bundles by which the API server knows us, in PEM: one for each webhook.
    pub(super) told: Vec<String>,
}

/// Is what there is to do.
#[derive(Debug)]
pub(super) enum Task {
    /// Keep this, if nobody has kept something else meanwhile.
    Keep(Kept),
    /// Tell the API server this bundle.
    Tell(String),
    /// Show this certificate from now on.
    Show(Box<ApiCertificate>),
}

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorityError {
    #[error("cannot sign the injector's certificate")]
    Sign(#[from] SignError),
    #[error("cannot use the key that is kept")]
    Load(#[from] LoadError),
    #[error("cannot show the certificate that was made")]
    Show(#[from] ApiCertificateError),
}

/// Decides what to do; remembers what is shown and since when a root is told.
#[derive(Debug)]
pub(super) struct Authority {
    names: Vec<ApiName>,
    shown: Option<Shown>,
    told: Option<(String, Timestamp)>,
}

#[derive(Debug)]
struct Shown {
    root_pem: String,
    made: Timestamp,
}

impl Authority {
    pub(super) fn new(names: Vec<ApiName>) -> Self {
        Self { names, shown: None, told: None }
    }

    /// Says what to do after a look at the cluster, if anything; another look is due at once then.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`] where something cannot be signed; what is shown goes on being shown.
    pub(super) fn step(&mut self, seen: &Seen, now: Timestamp) -> Result<Option<Task>, AuthorityError> {
        let root = seen.kept.as_ref().and_then(|kept| LocalRoot::load(&kept.root_pem, &kept.key_pem).ok());
        let (Some(kept), Some(root)) = (&seen.kept, root) else {
            // What is shown goes on being shown until the new root has been heard of: its root stays in the bundle.
            let earlier = self.shown.as_ref().map(|shown| shown.root_pem.clone());
            return Ok(Some(Task::Keep(made(earlier, now)?)));
        };
        if now.saturating_add(ROOT_REPLACED_BEFORE) > root.not_after() {
            let earlier = (now < root.not_after()).then(|| kept.root_pem.clone());
            return Ok(Some(Task::Keep(made(earlier, now)?)));
        }
        let bundle = format!("{}{}", kept.root_pem, kept.earlier_pem.as_deref().unwrap_or_default());
        if seen.told.iter().any(|told| *told != bundle) {
            self.told = None;
            return Ok(Some(Task::Tell(bundle)));
        }
        let since = match &self.told {
            Some((told, since)) if *told == kept.root_pem => *since,
            _ => {
                self.told = Some((kept.root_pem.clone(), now));
                now
            }
        };
        if let Some(shown) = &self.shown {
            let is_heard = now >= since.saturating_add(HEARD_AFTER);
            let is_fresh = now < shown.made.saturating_add(CERTIFICATE_TTL / 2);
            let rests = if shown.root_pem == kept.root_pem { is_fresh } else { !is_heard };
            if rests {
                return Ok(None);
            }
        }
        let certificate = certificate(&root, &self.names, now)?;
        self.shown = Some(Shown { root_pem: kept.root_pem.clone(), made: now });
        Ok(Some(Task::Show(Box::new(certificate))))
    }
}

/// Makes a new root.
fn made(earlier_pem: Option<String>, now: Timestamp) -> Result<Kept, SignError> {
    let trust_domain: TrustDomain = TRUST_DOMAIN.parse().expect("it is a trust domain");
    let root = LocalRoot::create(&trust_domain, now, ROOT_TTL)?;
    Ok(Kept { root_pem: root.certificate_pem().to_owned(), key_pem: root.key_pem(), earlier_pem })
}

/// Makes a replica's own certificate, under an intermediate of its own that nobody keeps.
fn certificate(root: &LocalRoot, names: &[ApiName], now: Timestamp) -> Result<ApiCertificate, AuthorityError> {
    let signer = root.create_intermediate(now, CERTIFICATE_TTL + DAY)?;
    let key = LeafKey::generate();
    let csr = parse_csr(&key.csr_der(None)).map_err(SignError::Csr)?;
    let signed = signer.sign_api(&csr, names, Serial::draw(CatalogIndex::default()), now, CERTIFICATE_TTL)?;
    let chain = signed.certificate_pem + LocalSigner::certificate_pem(&signer);
    Ok(ApiCertificate::from_pem(&chain, &key.to_pem())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cluster, as far as an authority sees it.
    struct Cluster {
        seen: Seen,
        shown: Option<ApiCertificate>,
        under: String,
    }

    impl Cluster {
        fn new() -> Self {
            wire::crypto::install_provider();
            Self {
                seen: Seen { kept: None, told: vec![String::new(), "old".to_owned()] },
                shown: None,
                under: String::new(),
            }
        }

        /// Looks and does until nothing is left to do; returns how many looks that took.
        fn settle(&mut self, authority: &mut Authority, now: Timestamp) -> usize {
            for looks in 1..10 {
                let Some(task) = authority.step(&self.seen, now).unwrap() else { return looks };
                self.carry_out(task);
            }
            panic!("it never rests");
        }

        fn carry_out(&mut self, task: Task) {
            match task {
                Task::Keep(kept) => self.seen.kept = Some(kept),
                Task::Tell(bundle) => self.seen.told.iter_mut().for_each(|told| *told = bundle.clone()),
                Task::Show(certificate) => {
                    self.under = self.root();
                    self.shown = Some(*certificate);
                }
            }
            // Whatever is shown is under a root that every webhook's bundle holds.
            let known = self.seen.told.iter().all(|told| told.contains(&self.under));
            assert!(self.shown.is_none() || known, "a certificate is shown that the API server does not know");
        }

        fn root(&self) -> String {
            self.seen.kept.as_ref().unwrap().root_pem.clone()
        }
    }

    fn authority() -> Authority {
        Authority::new(vec!["weft-injector.weft.svc".parse().unwrap()])
    }

    #[test]
    fn a_root_is_made_kept_and_told_before_anything_is_shown() {
        let (mut cluster, mut authority, now) = (Cluster::new(), authority(), wire::crypto::now());
        assert_eq!(cluster.settle(&mut authority, now), 4);
        let shown = cluster.shown.clone().unwrap();
        assert_eq!(shown.names(), ["weft-injector.weft.svc".parse().unwrap()]);
        assert_eq!(cluster.seen.told, [cluster.root(), cluster.root()]);
        assert_eq!(cluster.settle(&mut authority, now.saturating_add(DAY / 2)), 1, "all is well");
        // A replica that comes later makes nothing but its own certificate.
        let (root, mut other) = (cluster.root(), self::authority());
        assert_eq!(cluster.settle(&mut other, now), 2);
        assert_eq!(cluster.root(), root);
    }

    #[test]
    fn k1_a_year_of_rotations_never_shows_what_the_api_server_does_not_know() {
        let (mut cluster, mut authority, start) = (Cluster::new(), authority(), wire::crypto::now());
        let mut roots = std::collections::BTreeSet::new();
        for hours in (0..24 * 800).step_by(5) {
            let now = start.saturating_add(Duration::from_secs(hours * 3600));
            cluster.settle(&mut authority, now);
            let shown = cluster.shown.as_ref().unwrap();
            assert!(shown.not_after() > now.saturating_add(Duration::from_secs(3600)), "after {hours} hours");
            roots.insert(cluster.root());
        }
        assert!((3..=5).contains(&roots.len()), "{} roots", roots.len());
    }

    #[test]
    fn k1_a_new_root_is_used_once_every_api_server_has_heard_of_it() {
        let (mut cluster, mut authority, start) = (Cluster::new(), authority(), wire::crypto::now());
        cluster.settle(&mut authority, start);
        let first = cluster.root();
        let late = start.saturating_add(ROOT_TTL - ROOT_REPLACED_BEFORE + DAY);
        // Its own certificate is fresh, so that only the root is a reason to make another.
        authority.shown.as_mut().unwrap().made = late;
        cluster.settle(&mut authority, late);
        assert_ne!(cluster.root(), first);
        assert_eq!(cluster.seen.told[0], format!("{}{first}", cluster.root()));
        assert_eq!(cluster.under, first);
        cluster.settle(&mut authority, late.saturating_add(HEARD_AFTER));
        assert_eq!(cluster.under, cluster.root());
    }

    #[test]
    fn what_somebody_broke_is_mended() {
        let (mut cluster, mut authority, now) = (Cluster::new(), authority(), wire::crypto::now());
        cluster.settle(&mut authority, now);
        let first = cluster.root();
        cluster.seen.told[1] = String::new();
        cluster.settle(&mut authority, now);
        assert_eq!(cluster.seen.told[1], first);
        cluster.seen.kept = Some(Kept { root_pem: first.clone(), key_pem: Secret::new("no key"), earlier_pem: None });
        cluster.settle(&mut authority, now);
        assert_ne!(cluster.root(), first);
        assert_eq!(cluster.under, first, "the replica shows what the API server knows until it knows the new root");
        cluster.settle(&mut authority, now.saturating_add(HEARD_AFTER));
        assert_eq!(cluster.under, cluster.root());
    }
}

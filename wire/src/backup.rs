//! Backups as files: a gzipped tar archive of the state and what it is, in which no byte can change unseen.
//!
//! `tar xzf` reads it. weft itself never unpacks one to a disk: it reads three members by name, in their order, within
//! their bounds, and refuses everything else. Private keys inside are sealed with the cluster key, and tokens are hashes.

use std::io::{self, Read, Write};

use catalog::{BACKUP_BYTES_MAX, Catalog, CatalogIndex, ServerId, SnapshotError, Timestamp};
use flate2::bufread::DeflateDecoder;
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use serde::{Deserialize, Serialize};

use crate::crypto;
use crate::rfc3339;

/// The version of the archive; the state in it has a version of its own.
const FORMAT: u16 = 1;

const META: &str = "meta.json";
const STATE: &str = "state.bin";
const SUMS: &str = "SHA256SUMS";

/// Largest archive that is read.
pub const ARCHIVE_BYTES_MAX: usize = 256 << 20;
const SMALL_MEMBER_BYTES_MAX: u64 = 64 << 10;
/// What a state shrinks to at best. An archive that claims more is there to fill a memory.
const RATIO_MAX: u64 = 250;
/// Heads, padding and the end of an archive of three members.
const TAR_OVERHEAD: u64 = 16 << 10;

/// The gzip header up to the digest: deflate, an extra field, no time, no system; then the field's length, its name and
/// the length of what it holds. The digest covers all that follows, so that bits which gzip itself leaves unchecked are
/// checked too.
const GZIP_HEAD: [u8; 16] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 36, 0, b'W', b'F', 32, 0];
const DIGEST_END: usize = GZIP_HEAD.len() + 32;
const TRAILER_BYTES: usize = 8;

/// Says what a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct BackupMeta {
    /// The version of the archive.
    pub format: u16,
    /// The cluster whose state it is.
    #[serde(rename = "ClusterID")]
    pub cluster_id: String,
    /// Its datacenter.
    pub datacenter: String,
    /// The authority of every identity in it.
    pub trust_domain: String,
    /// The log index of the state.
    pub index: u64,
    /// The server that it was taken from.
    pub server: String,
    /// When it was taken, by that server's clock.
    pub taken_at: String,
    /// The release that wrote it.
    pub release: String,
    /// How long the state is.
    pub state_bytes: u64,
}

/// A backup that was read and found whole.
#[derive(Debug)]
pub struct Backup {
    /// What it says it is; checked against the state.
    pub meta: BackupMeta,
    /// The state as it was written.
    pub state: String,
    /// The state.
    pub catalog: Catalog,
}

/// Why bytes are no backup, or none that this release reads.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// They do not start as a backup does.
    #[error("not a backup of weft: it must be a file that `weft snapshot save` wrote")]
    Foreign,
    /// They are not what was written.
    #[error("the backup is damaged ({what}): take another one, or use another copy of this one")]
    Damaged {
        /// What is wrong.
        what: String,
    },
    /// A later release wrote it.
    #[error("the backup has format {found}, and this release reads up to {FORMAT}: use the release that wrote it")]
    Newer {
        /// The format found.
        found: u16,
    },
    /// It is larger than anything that would be restored.
    #[error("the backup is too large: its {what} has {bytes} bytes, and {bytes_max} are read at most")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// How large it is.
        bytes: u64,
        /// What is accepted.
        bytes_max: u64,
    },
    /// The archive is whole and has other members than a backup.
    #[error("the backup is not as `weft snapshot save` writes it: {what}")]
    Members {
        /// What is wrong with them.
        what: String,
    },
    /// The state cannot be read.
    #[error("the state in the backup cannot be read")]
    State(#[source] SnapshotError),
}

fn damaged(what: impl ToString) -> BackupError {
    BackupError::Damaged { what: what.to_string() }
}

fn members(what: impl ToString) -> BackupError {
    BackupError::Members { what: what.to_string() }
}

/// Writes a catalog as a backup.
///
/// # Errors
///
/// [`BackupError::Members`] where the catalog is of no mesh, [`BackupError::TooLarge`] where it could not be restored.
pub fn write(catalog: &Catalog, server: &ServerId, taken_at: Timestamp) -> Result<Vec<u8>, BackupError> {
    let mesh =
        catalog.mesh().ok_or_else(|| members("the cluster is not bootstrapped yet, so that there is no state"))?;
    let state = catalog.for_backup().snapshot();
    let state_bytes = state.len() as u64;
    if state_bytes > BACKUP_BYTES_MAX {
        return Err(BackupError::TooLarge { what: "state", bytes: state_bytes, bytes_max: BACKUP_BYTES_MAX });
    }
    let meta = BackupMeta {
        format: FORMAT,
        cluster_id: mesh.cluster_id.clone(),
        datacenter: mesh.datacenter.clone(),
        trust_domain: mesh.trust_domain.to_string(),
        index: catalog.index().0,
        server: server.to_string(),
        taken_at: rfc3339::format(taken_at),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        state_bytes,
    };
    let meta = serde_json::to_vec_pretty(&meta).map_err(members)?;
    let sums = sums(&meta, &state);
    archive(&[(META, &meta), (STATE, &state), (SUMS, sums.as_bytes())], taken_at).map_err(members)
}

fn sums(meta: &[u8], state: &[u8]) -> String {
    format!("{}  {META}\n{}  {STATE}\n", crypto::sha256_hex(meta), crypto::sha256_hex(state))
}

/// Packs members into one gzip file with the digest in its head.
fn archive(members: &[(&str, &[u8])], taken_at: Timestamp) -> io::Result<Vec<u8>> {
    let mut unpacked = Summing { crc: Crc::new(), inner: DeflateEncoder::new(Vec::new(), Compression::new(6)) };
    let mut tar = tar::Builder::new(&mut unpacked);
    for (name, bytes) in members {
        let mut head = tar::Header::new_ustar();
        head.set_size(bytes.len() as u64);
        head.set_mode(0o600);
        head.set_mtime(taken_at.0 / 1000);
        tar.append_data(&mut head, name, *bytes)?;
    }
    tar.finish()?;
    drop(tar);
    let Summing { crc, inner } = unpacked;
    let mut rest = inner.finish()?;
    rest.extend_from_slice(&crc.sum().to_le_bytes());
    rest.extend_from_slice(&crc.amount().to_le_bytes());
    let mut file = GZIP_HEAD.to_vec();
    file.extend_from_slice(&crypto::sha256(&rest));
    file.append(&mut rest);
    Ok(file)
}

/// Counts what passes for the gzip trailer.
struct Summing<T> {
    crc: Crc,
    inner: T,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.crc.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Summing<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.crc.update(&bytes[..read]);
        Ok(read)
    }
}

/// Reads a backup and checks all of it.
///
/// # Errors
///
/// [`BackupError`]; what was read so far is gone with it.
pub fn read(file: &[u8]) -> Result<Backup, BackupError> {
    let unpacked = unpack(file)?;
    let [meta_text, state, sums_text] = unpacked.as_slice() else { return Err(members("members are missing")) };
    if *sums_text != sums(meta_text, state).into_bytes() {
        return Err(damaged("a member does not have the sum that the archive gives"));
    }
    let meta = read_meta(meta_text)?;
    if meta.state_bytes != state.len() as u64 {
        return Err(members(format!("`{STATE}` is not as long as `{META}` says")));
    }
    let state = String::from_utf8(state.clone()).map_err(|_| members(format!("`{STATE}` is not text")))?;
    let catalog = Catalog::restore(state.as_bytes()).map_err(BackupError::State)?;
    let fits = catalog.mesh().is_some_and(|mesh| {
        mesh.cluster_id == meta.cluster_id
            && mesh.datacenter == meta.datacenter
            && mesh.trust_domain.to_string() == meta.trust_domain
    });
    if !fits || catalog.index() != CatalogIndex(meta.index) {
        return Err(members(format!("`{META}` is of another state")));
    }
    Ok(Backup { meta, state, catalog })
}

fn read_meta(text: &[u8]) -> Result<BackupMeta, BackupError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Version {
        format: u16,
    }
    let unreadable = |error: serde_json::Error| members(format!("`{META}` cannot be read: {error}"));
    let Version { format } = serde_json::from_slice(text).map_err(unreadable)?;
    if format > FORMAT {
        return Err(BackupError::Newer { found: format });
    }
    serde_json::from_slice(text).map_err(unreadable)
}

/// Returns the three members.
fn unpack(file: &[u8]) -> Result<Vec<Vec<u8>>, BackupError> {
    if file.len() > ARCHIVE_BYTES_MAX {
        let (bytes, bytes_max) = (file.len() as u64, ARCHIVE_BYTES_MAX as u64);
        return Err(BackupError::TooLarge { what: "archive", bytes, bytes_max });
    }
    if !file.starts_with(&GZIP_HEAD) {
        return Err(BackupError::Foreign);
    }
    let rest = file.get(DIGEST_END..).filter(|rest| rest.len() > TRAILER_BYTES);
    let rest = rest.ok_or_else(|| damaged("it is cut short"))?;
    if crypto::sha256(rest) != file[GZIP_HEAD.len()..DIGEST_END] {
        return Err(damaged("it is cut short, longer than it was, or a byte of it changed"));
    }
    let (deflated, trailer) = rest.split_at(rest.len() - TRAILER_BYTES);
    let unpacked_max = (deflated.len() as u64).saturating_mul(RATIO_MAX).min(BACKUP_BYTES_MAX) + TAR_OVERHEAD;
    let mut unpacked = Summing { crc: Crc::new(), inner: DeflateDecoder::new(deflated).take(unpacked_max) };
    let found = read_members(&mut unpacked, unpacked_max)?;
    let mut padding = Vec::new();
    unpacked.read_to_end(&mut padding).map_err(damaged)?;
    let Summing { crc, inner } = unpacked;
    let is_at_end = inner.limit() > 0 && inner.get_ref().get_ref().is_empty();
    if !is_at_end || padding.len() as u64 > TAR_OVERHEAD || padding.iter().any(|byte| *byte != 0) {
        return Err(members("something follows its members"));
    }
    if trailer[..4] != crc.sum().to_le_bytes() || trailer[4..] != crc.amount().to_le_bytes() {
        return Err(damaged("the sum at its end is wrong"));
    }
    Ok(found)
}

fn read_members(unpacked: &mut impl Read, unpacked_max: u64) -> Result<Vec<Vec<u8>>, BackupError> {
    let mut archive = tar::Archive::new(unpacked);
    // Raw: extensions that give a member another name or length are members like any other, and refused.
    let mut entries = archive.entries().map_err(damaged)?.raw(true);
    let mut found = Vec::new();
    for (name, bytes_max) in [(META, SMALL_MEMBER_BYTES_MAX), (STATE, unpacked_max), (SUMS, SMALL_MEMBER_BYTES_MAX)] {
        let entry = entries.next().ok_or_else(|| members(format!("`{name}` is missing")))?;
        let entry = entry.map_err(|error| members(format!("`{name}` cannot be read: {error}")))?;
        if !entry.header().entry_type().is_file() || entry.path_bytes().as_ref() != name.as_bytes() {
            let found = String::from_utf8_lossy(&entry.path_bytes()).chars().take(100).collect::<String>();
            return Err(members(format!("`{}` stands where the file `{name}` should", found.escape_debug())));
        }
        let bytes = entry.header().size().map_err(damaged)?;
        if bytes > bytes_max {
            return Err(BackupError::TooLarge { what: name, bytes, bytes_max });
        }
        let mut member = Vec::new();
        entry.take(bytes_max).read_to_end(&mut member).map_err(damaged)?;
        if member.len() as u64 != bytes {
            return Err(damaged(format!("`{name}` is cut short")));
        }
        found.push(member);
    }
    match entries.next() {
        None => Ok(found),
        Some(_) => Err(members("it has more members than three")),
    }
}

#[cfg(test)]
mod tests;

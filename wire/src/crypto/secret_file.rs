//! Reading files that hold a secret.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Secret;

/// The bits of a file's mode that let its group, or anyone, do anything with it, or let it be executed.
const FORBIDDEN_MODE: u32 = 0o177;
/// The bits of a projected token's mode that let anyone but its owner change it, or let it be executed.
const FORBIDDEN_PROJECTED: u32 = 0o133;
/// How a file system tells that it is kept in memory alone (`statfs(2)`).
const IN_MEMORY: i64 = 0x0102_1994;

/// Why a file was not accepted as the keeper of a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file could not be opened or read.
    #[error("cannot read secret file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The path names a directory, a pipe or a device.
    #[error("secret file `{}` is not a regular file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else owns the file and could change its mode at will.
    #[error("secret file `{}` belongs to user {owner}; give it to the user that runs weft, or to root", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Somebody besides the owner may read or write the file.
    #[error("secret file `{}` has mode {mode:04o}; run `chmod 0600` on it, for only its owner may read it", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file that more than its owner may read is on a disk, or somebody else's to write.
    #[error(
        "`{}` has mode {mode:04o} and is no token that a kubelet projects: mount one, or run `chmod 0600` on it", path.display()
    )]
    NotProjected {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is longer than any secret of this kind.
    #[error("secret file `{}` is longer than {bytes_max} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The bound.
        bytes_max: u64,
    },
    /// The file holds bytes that are no text.
    #[error("secret file `{}` is not text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the secret that the regular file at `path` holds, without the newline that ends it.
///
/// The file must belong to the user that runs weft, or to root, and nobody else may have any right to it: mode 0600
/// or 0400. One more form is accepted, because a Secret of Kubernetes, and a credential of systemd, comes to a process that is
/// not root in no other way: mode 0440, owned by root, for the very group that weft runs as, or for root's with an access list
/// that lets in the very user that weft runs as (that is how systemd does it). Symbolic links are followed, because a Kubernetes
/// secret volume is made of them.
///
/// # Errors
///
/// A [`SecretFileError`] that names the file and what to change.
pub fn read_secret_file(path: &Path, bytes_max: u64) -> Result<Secret, SecretFileError> {
    read(path, bytes_max, |file| check(path, file, &file.metadata().map_err(|source| read_failed(path, source))?))
}

/// Reads a token that a kubelet projects into a pod.
///
/// Unless all containers of a pod run as one user, a kubelet cannot give the file to the one that needs it: it is then of mode
/// 0644, and who may read it is who has it mounted. So a file that others may read, and nobody but root or ourselves may
/// change, is accepted here where it lies in memory, as every projected volume does. Everything else is held to what
/// [`read_secret_file`] asks for.
///
/// # Errors
///
/// A [`SecretFileError`] that names the file and what to change.
pub fn read_projected_token(path: &Path, bytes_max: u64) -> Result<Secret, SecretFileError> {
    read(path, bytes_max, |file| {
        let metadata = file.metadata().map_err(|source| read_failed(path, source))?;
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        let is_ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
        if !metadata.is_file() || !is_ours || mode & FORBIDDEN_MODE == 0 {
            return check(path, file, &metadata);
        }
        let system = rustix::fs::fstatfs(file).map_err(|errno| read_failed(path, errno.into()))?;
        match is_projected(mode, system.f_type) {
            true => Ok(()),
            false => Err(SecretFileError::NotProjected { path: path.to_owned(), mode }),
        }
    })
}

/// Reports whether a file that root or we own is as a kubelet projects it: in memory, and nobody else's to change.
fn is_projected(mode: u32, file_system: i64) -> bool {
    mode & FORBIDDEN_PROJECTED == 0 && file_system == IN_MEMORY
}

fn read_failed(path: &Path, source: io::Error) -> SecretFileError {
    SecretFileError::Read { path: path.to_owned(), source }
}

/// Reads a file that `check` accepts once it is open.
fn read(
    path: &Path,
    bytes_max: u64,
    check: impl FnOnce(&File) -> Result<(), SecretFileError>,
) -> Result<Secret, SecretFileError> {
    let failed = |source| read_failed(path, source);
    // Asked before opening, because opening a pipe waits for its writer.
    let before = fs::metadata(path).map_err(failed)?;
    if !before.is_file() {
        return Err(SecretFileError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(failed)?;
    // The checks that count are on the opened file, which nobody can exchange any more.
    check(&file)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(bytes_max).unwrap_or(usize::MAX).min(1 << 16)));
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        return Err(SecretFileError::TooLong { path: path.to_owned(), bytes_max });
    }
    let text = str::from_utf8(&bytes).map_err(|_| SecretFileError::NotText { path: path.to_owned() })?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(Secret::new(text.strip_suffix('\r').unwrap_or(text)))
}

fn check(path: &Path, file: &File, metadata: &fs::Metadata) -> Result<(), SecretFileError> {
    if !metadata.is_file() {
        return Err(SecretFileError::NotAFile { path: path.to_owned() });
    }
    let (owner, group, mode) = (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777);
    let us = Ourselves { user: rustix::process::geteuid().as_raw(), group: rustix::process::getegid().as_raw() };
    if owner != 0 && owner != us.user {
        return Err(SecretFileError::Owner { path: path.to_owned(), owner });
    }
    if mode & FORBIDDEN_MODE == 0 {
        return Ok(());
    }
    let list = access_list(file).map_err(|source| read_failed(path, source))?;
    match us.have_from_root(mode, owner, group, list.as_deref()) {
        true => Ok(()),
        false => Err(SecretFileError::Mode { path: path.to_owned(), mode }),
    }
}

/// Is whom this process runs as.
#[derive(Debug, Clone, Copy)]
struct Ourselves {
    user: u32,
    /// The primary group: a supplementary one may be shared with people.
    group: u32,
}

impl Ourselves {
    /// Reports whether root gave a file to read to the group that we run as, or to us by an access list, and to nobody else.
    /// Whoever is root can say 0400 instead.
    ///
    /// Beside a list, the mode's bits for the group say no more than what the list grants at most.
    fn have_from_root(self, mode: u32, owner: u32, group: u32, list: Option<&[u8]>) -> bool {
        if mode != 0o440 || owner != 0 || self.user == 0 || self.group == 0 {
            return false;
        }
        match list {
            None => group == self.group,
            Some(list) => AccessList::read(list).is_some_and(|list| {
                list.users == [self.user] && list.groups.is_empty() && (!list.has_group || group == self.group)
            }),
        }
    }
}

/// Is what an access list grants beside the owner.
#[derive(Debug, Default, PartialEq, Eq)]
struct AccessList {
    users: Vec<u32>,
    groups: Vec<u32>,
    /// Whether the file's own group has any right.
    has_group: bool,
}

impl AccessList {
    /// Reads a list in the kernel's form: a version, and entries of a tag, rights and an id, all of them little-endian
    /// (`linux/posix_acl_xattr.h`). None where it has another form, or lets everybody in.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (version, entries) = bytes.split_first_chunk::<4>()?;
        let (entries, rest) = entries.as_chunks::<8>();
        if u32::from_le_bytes(*version) != 2 || !rest.is_empty() {
            return None;
        }
        let mut list = Self::default();
        for [t0, t1, r0, r1, i0, i1, i2, i3] in entries.iter().copied() {
            let (tag, rights) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([r0, r1]));
            let id = u32::from_le_bytes([i0, i1, i2, i3]);
            match tag {
                // The owner, and the mask: neither lets anybody in.
                0x01 | 0x10 => {}
                0x02 => list.users.push(id),
                0x04 => list.has_group = rights != 0,
                0x08 => list.groups.push(id),
                0x20 if rights == 0 => {}
                _ => return None,
            }
        }
        Some(list)
    }
}

/// Reads a file's access list; none where it has none, or its file system knows no such lists.
fn access_list(file: &File) -> io::Result<Option<Vec<u8>>> {
    use rustix::io::Errno;
    let mut list = vec![0; 4 * 1024];
    match rustix::fs::fgetxattr(file, "system.posix_acl_access", list.as_mut_slice()) {
        Ok(length) => {
            list.truncate(length);
            Ok(Some(list))
        }
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(directory: &Path, mode: u32, contents: &[u8]) -> PathBuf {
        let path = directory.join(format!("secret-{mode:o}"));
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_file_that_only_its_owner_may_read_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o400] {
            let path = file(directory.path(), mode, b"the secret\n");
            assert_eq!(read_secret_file(&path, 64).unwrap(), Secret::new("the secret"));
        }
    }

    #[test]
    fn a_file_that_others_may_touch_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602, 0o644, 0o440, 0o700, 0o610] {
            let path = file(directory.path(), mode, b"the secret\n");
            let error = read_secret_file(&path, 64).unwrap_err();
            assert!(matches!(error, SecretFileError::Mode { mode: found, .. } if found == mode), "{mode:o}: {error}");
        }
    }

    #[test]
    fn roots_file_for_us_is_accepted_and_nothing_near_it() {
        let us = Ourselves { user: 65532, group: 65532 };
        let root = Ourselves { user: 0, group: 0 };
        assert!(us.have_from_root(0o440, 0, us.group, None), "as Kubernetes gives it");
        for (us, mode, owner, group) in [
            (us, 0o444, 0, us.group),
            (us, 0o640, 0, us.group),
            (us, 0o460, 0, us.group),
            (us, 0o440, us.user, us.group),
            (us, 0o440, 0, 100),
            // Read through a supplementary group, which others may have as well.
            (us, 0o440, 0, 0),
            (root, 0o440, 0, 0),
            (Ourselves { group: 0, ..us }, 0o440, 0, 0),
        ] {
            assert!(!us.have_from_root(mode, owner, group, None), "{mode:o} {owner} {group} {us:?}");
        }
    }

    /// Writes an access list as the kernel has it: a tag, rights and an id each.
    fn access_list_of(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entry = |(tag, rights, id): &(u16, u16, u32)| {
            [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        [2_u32.to_le_bytes().to_vec(), entries.iter().flat_map(entry).collect()].concat()
    }

    #[test]
    fn roots_file_with_an_access_list_is_accepted_where_it_names_us_alone() {
        const NOBODY: u32 = u32::MAX;
        let us = Ourselves { user: 65532, group: 65532 };
        let (owner, mask, other) = ((0x01, 4, NOBODY), (0x10, 4, NOBODY), (0x20, 0, NOBODY));
        let (group, ours) = ((0x04, 0, NOBODY), (0x02, 4, us.user));
        let is_ours =
            |of: u32, entries: &[(u16, u16, u32)]| us.have_from_root(0o440, 0, of, Some(&access_list_of(entries)));
        assert!(is_ours(0, &[owner, ours, group, mask, other]), "as systemd gives it");
        assert!(is_ours(us.group, &[owner, ours, (0x04, 4, NOBODY), mask, other]), "our group besides");
        for (why, of, entries) in [
            ("the group of root besides", 0, vec![owner, ours, (0x04, 4, NOBODY), mask, other]),
            ("a second user", 0, vec![owner, ours, (0x02, 4, 1000), group, mask, other]),
            ("another user", 0, vec![owner, (0x02, 4, 1000), group, mask, other]),
            ("another user beside our group", us.group, vec![owner, (0x02, 4, 1000), (0x04, 4, NOBODY), mask, other]),
            ("another group", 0, vec![owner, ours, group, (0x08, 4, 1000), mask, other]),
            ("everybody", 0, vec![owner, ours, group, mask, (0x20, 4, NOBODY)]),
            ("what nobody knows", 0, vec![owner, ours, group, mask, other, (0x40, 4, 7)]),
            ("nobody", 0, vec![owner, group, mask, other]),
        ] {
            assert!(!is_ours(of, &entries), "{why}");
        }
        let list = access_list_of(&[owner, ours, group, mask, other]);
        assert!(!us.have_from_root(0o440, 0, 0, Some(&list[..list.len() - 1])), "it is cut");
        assert!(!us.have_from_root(0o440, 0, 0, Some(&[3, 0, 0, 0])), "it is of another version");
    }

    #[test]
    fn a_files_access_list_is_read_from_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(directory.path(), 0o600, b"the secret\n");
        let opened = File::open(&path).unwrap();
        assert_eq!(access_list(&opened).unwrap(), None);
        let list = access_list_of(&[
            (0x01, 6, u32::MAX),
            (0x02, 4, 65532),
            (0x04, 0, u32::MAX),
            (0x10, 4, u32::MAX),
            (0x20, 0, u32::MAX),
        ]);
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::fsetxattr(&opened, "system.posix_acl_access", &list, flags) {
            Ok(()) => assert_eq!(access_list(&opened).unwrap(), Some(list)),
            // Not every file system keeps such lists; there is nothing to read on this one.
            Err(errno) => assert_eq!(errno, rustix::io::Errno::NOTSUP),
        }
    }

    #[test]
    fn c10_a_projected_token_may_be_readable_in_memory_and_nowhere_else() {
        const DISK: i64 = 0xef53;
        for mode in [0o644, 0o640, 0o444, 0o440] {
            assert!(is_projected(mode, IN_MEMORY) && !is_projected(mode, DISK), "{mode:o}");
        }
        for mode in [0o666, 0o664, 0o646, 0o744, 0o622] {
            assert!(!is_projected(mode, IN_MEMORY), "{mode:o}");
        }
    }

    #[test]
    fn c10_a_projected_token_is_read_where_it_lies() {
        let directory = tempfile::tempdir().unwrap();
        let token = |path: &Path| read_projected_token(path, 64);
        for mode in [0o600, 0o400] {
            let path = file(directory.path(), mode, b"a.b.c\n");
            assert_eq!(token(&path).unwrap(), Secret::new("a.b.c"), "wherever it is: {mode:o}");
        }
        // Whether the rest is accepted depends on what the directory is on.
        let on_disk = rustix::fs::statfs(directory.path()).unwrap().f_type != IN_MEMORY;
        for (mode, is_open) in [(0o644, true), (0o444, true), (0o666, false), (0o744, false)] {
            let path = file(directory.path(), mode, b"a.b.c\n");
            match token(&path) {
                Ok(found) => assert!(is_open && !on_disk && found == Secret::new("a.b.c"), "{mode:o}"),
                Err(error) => {
                    assert!(matches!(error, SecretFileError::NotProjected { .. }), "{mode:o}: {error}");
                    assert!(on_disk || !is_open, "{mode:o}");
                }
            }
            let plain = read_secret_file(&path, 64).unwrap_err();
            assert!(matches!(plain, SecretFileError::Mode { .. }), "{plain}");
        }
    }

    #[test]
    fn what_is_no_short_text_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let not_a_file = read_secret_file(directory.path(), 64).unwrap_err();
        assert!(matches!(not_a_file, SecretFileError::NotAFile { .. }), "{not_a_file}");
        let missing = read_secret_file(&directory.path().join("missing"), 64).unwrap_err();
        assert!(matches!(missing, SecretFileError::Read { .. }), "{missing}");
        let path = file(directory.path(), 0o600, b"0123456789");
        assert!(matches!(read_secret_file(&path, 9).unwrap_err(), SecretFileError::TooLong { .. }));
        let path = file(directory.path(), 0o600, &[0xff, 0xfe]);
        assert!(matches!(read_secret_file(&path, 64).unwrap_err(), SecretFileError::NotText { .. }));
    }
}

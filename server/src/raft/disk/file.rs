//! A directory of real files.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::aside::{Aside, FileAside};
use super::reserve::{Reserve, is_full};
use super::{Disk, Space};

/// Created and removed at once, to find a disk that cannot be written to before anything depends on it.
const PROBE: &str = "probe";

/// How many syncs are measured before somebody asks.
const SYNC_TIMES_MAX: usize = 1024;

/// The kinds of file system (`statfs(2)`) on which locks and synced writes do not mean what they must: NFS, SMB, CIFS.
const OVER_A_NETWORK: [u32; 3] = [0x6969, 0xfe53_4d42, 0xff53_4d42];

/// A directory of real files, locked against a second process.
///
/// The directory has mode 0700 and its files 0600: the log holds sealed keys and hashes of tokens.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    /// Kept open to sync it, and because the lock lives as long as it.
    directory: File,
    /// The file appended to last. The log syncs it through the descriptor that wrote it, for a write-back error is
    /// reported to descriptors that were open when it happened.
    active: Option<Active>,
    reserve: Reserve,
    /// How long syncs took that nobody has asked about yet.
    sync_times: Vec<Duration>,
}

#[derive(Debug)]
struct Active {
    name: String,
    file: File,
    /// What it holds. A write that fails for want of space is cut off again.
    length: u64,
    /// Whether the file's name may not be durable yet.
    is_new: bool,
}

/// Why a directory cannot be used as a disk.
#[derive(Debug, thiserror::Error)]
pub enum FileDiskError {
    /// It could not be created, opened or examined.
    #[error("cannot use data directory `{}`; give the server's user read and write access to it", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// It belongs to another user.
    #[error(
        "data directory `{}` belongs to user id {owner}, the server runs as {user}; run it as the owner or change the owner",
        path.display()
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
    /// It lies on a disk that only can be read, or that is full.
    #[error("cannot write to data directory `{}`; mount it for writing, and see that it is not full", path.display())]
    Unwritable {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// It lies on another machine.
    #[error("data directory `{}` is on a network file system, which does not keep what it acknowledged: use a local disk", path.display())]
    Network {
        /// The directory.
        path: PathBuf,
    },
    /// Another process uses it.
    #[error("data directory `{}` is in use by another process; stop that server first", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
}

impl FileDisk {
    /// Opens a directory, which is created if it is not there, and locks it.
    ///
    /// # Errors
    /// [`FileDiskError`], and nothing was written but the directory itself.
    pub fn open(path: &Path) -> Result<FileDisk, FileDiskError> {
        let failed = |source| FileDiskError::Open { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let directory = File::open(path).map_err(failed)?;
        let metadata = directory.metadata().map_err(failed)?;
        let user = rustix::process::geteuid().as_raw();
        if metadata.uid() != user {
            return Err(FileDiskError::Owner { path: path.to_owned(), owner: metadata.uid(), user });
        }
        flock(&directory, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => FileDiskError::Locked { path: path.to_owned() },
            error => failed(error.into()),
        })?;
        if metadata.mode() & 0o077 != 0 {
            fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
        }
        let kind = rustix::fs::fstatfs(&directory).map_err(|error| failed(error.into()))?.f_type;
        if is_over_a_network(kind as u64) {
            return Err(FileDiskError::Network { path: path.to_owned() });
        }
        probe(&path.join(PROBE)).map_err(|source| FileDiskError::Unwritable { path: path.to_owned(), source })?;
        // The directory's own name has to survive a power cut as well.
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
        }
        Ok(FileDisk {
            path: path.to_owned(),
            directory,
            active: None,
            reserve: Reserve::open(path),
            sync_times: Vec::new(),
        })
    }

    fn path_of(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    fn forget(&mut self, file: &str) {
        self.active.take_if(|active| active.name == file);
    }

    fn activate(&mut self, file: &str) -> io::Result<&mut Active> {
        let active = match self.active.take() {
            Some(active) if active.name == file => active,
            _ => {
                let path = self.path_of(file);
                let mut options = OpenOptions::new();
                options.append(true).mode(0o600);
                match options.open(&path) {
                    Ok(opened) => {
                        let length = opened.metadata()?.len();
                        Active { name: file.to_owned(), file: opened, length, is_new: false }
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        let created = options.create_new(true).open(&path)?;
                        Active { name: file.to_owned(), file: created, length: 0, is_new: true }
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        Ok(self.active.insert(active))
    }
}

impl Disk for FileDisk {
    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let active = self.activate(file)?;
        let length = active.length;
        match active.file.write_all(bytes) {
            Err(error) if is_full(&error) => {
                // No part of a record stays: what was written of it is cut off, which needs no space.
                active.file.set_len(length)?;
                if !self.reserve.release() {
                    return Err(error);
                }
                let active = self.activate(file)?;
                active.file.write_all(bytes).or_else(|error| {
                    active.file.set_len(length)?;
                    Err(error)
                })?;
            }
            written => written?,
        }
        self.activate(file)?.length = length + bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self, file: &str) -> io::Result<()> {
        let started = Instant::now();
        let active = self.activate(file)?;
        active.file.sync_data()?;
        if std::mem::take(&mut active.is_new) {
            self.directory.sync_all()?;
        }
        if self.sync_times.len() < SYNC_TIMES_MAX {
            self.sync_times.push(started.elapsed());
        }
        Ok(())
    }

    fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path_of(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                // A name that is not UTF-8 is not one of ours.
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.forget(from);
        self.forget(to);
        fs::rename(self.path_of(from), self.path_of(to))?;
        self.directory.sync_all()
    }

    fn remove(&mut self, file: &str) -> io::Result<()> {
        self.forget(file);
        fs::remove_file(self.path_of(file))?;
        self.directory.sync_all()
    }

    fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
        self.forget(file);
        let opened = OpenOptions::new().write(true).open(self.path_of(file))?;
        opened.set_len(length)?;
        opened.sync_all()
    }

    fn space(&mut self) -> io::Result<Option<Space>> {
        let found = rustix::fs::fstatvfs(&self.directory)?;
        let space = Space {
            total: found.f_blocks.saturating_mul(found.f_frsize),
            free: found.f_bavail.saturating_mul(found.f_frsize),
        };
        self.reserve.keep(space);
        Ok(Some(space))
    }

    fn release_reserve(&mut self) {
        self.reserve.release();
    }

    fn take_sync_times(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.sync_times)
    }

    fn aside(&self) -> Option<Arc<dyn Aside>> {
        Some(Arc::new(FileAside { directory: self.path.clone() }))
    }
}

fn is_over_a_network(kind: u64) -> bool {
    OVER_A_NETWORK.iter().any(|known| u64::from(*known) == kind & 0xffff_ffff)
}

/// Tries whether files can be made; a full disk still takes a name.
fn probe(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_with_private_modes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("raft");
        let mut disk = FileDisk::open(&path).unwrap();
        disk.append("a", b"one").unwrap();
        disk.sync("a").unwrap();
        disk.append("b", b"other").unwrap();
        disk.append("a", b" two").unwrap();
        disk.sync("a").unwrap();
        disk.rename("b", "c").unwrap();
        assert_eq!(disk.read("a").unwrap(), b"one two");
        assert_eq!(disk.list().unwrap(), ["a", "c"]);
        disk.truncate("a", 3).unwrap();
        disk.append("a", b"!").unwrap();
        assert_eq!(disk.read("a").unwrap(), b"one!");
        disk.remove("c").unwrap();
        assert_eq!(disk.read("c").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join("a")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn every_sync_is_measured_and_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = FileDisk::open(directory.path()).unwrap();
        for _ in 0..3 {
            disk.append("a", b"x").unwrap();
            disk.sync("a").unwrap();
        }
        assert_eq!(disk.take_sync_times().len(), 3);
        assert!(disk.take_sync_times().is_empty());
    }

    #[test]
    fn z4_a_second_user_of_the_directory_is_refused_until_the_first_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let first = FileDisk::open(directory.path()).unwrap();
        assert!(matches!(FileDisk::open(directory.path()), Err(FileDiskError::Locked { .. })));
        drop(first);
        FileDisk::open(directory.path()).unwrap();
    }

    #[test]
    fn z4_a_directory_open_to_others_is_closed_to_them() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let _disk = FileDisk::open(directory.path()).unwrap();
        assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn z4_a_directory_of_another_user_is_refused_and_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        // Who is no superuser cannot give anything away, and finds a directory of the superuser instead.
        let given_away = std::os::unix::fs::chown(directory.path(), Some(12_345), None).is_ok();
        let path = if given_away { directory.path() } else { Path::new("/usr") };
        let error = FileDisk::open(path).unwrap_err();
        assert!(matches!(error, FileDiskError::Owner { .. }), "{error}");
        assert!(error.to_string().contains("belongs to user id"), "{error}");
        assert!(!path.join(PROBE).exists() && !path.join("reserve").exists());
    }

    #[test]
    fn z4_disks_of_other_machines_are_known_by_their_kind() {
        assert!(
            is_over_a_network(0x6969) && is_over_a_network(0xfe53_4d42) && is_over_a_network(0xffff_ffff_ff53_4d42)
        );
        assert!(!is_over_a_network(0xef53) && !is_over_a_network(0x0102_1994) && !is_over_a_network(0x5846_5342));
    }

    #[test]
    fn z1_space_is_held_back_and_given_up_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = FileDisk::open(directory.path()).unwrap();
        let space = disk.space().unwrap().unwrap();
        assert!(space.free <= space.total && space.total > 0);
        let reserve = directory.path().join("reserve");
        let held = fs::metadata(&reserve).map(|metadata| metadata.len()).unwrap_or_default();
        assert!(held > 0, "on a disk with {space:?} nothing is held back");
        assert!(disk.reserve.release() && !disk.reserve.release());
        assert!(!reserve.exists());
        assert!(disk.list().unwrap().is_empty(), "it leaves nothing behind");
    }

    /// Says, to this very test begun anew, which directory lies on a disk of its own.
    const SMALL_DISK: &str = "WEFT_TEST_SMALL_DISK";

    /// Begins the test `name` anew on a disk of a mebibyte, in a mount namespace of its own. Tells whether that could be done.
    fn on_a_small_disk(name: &str) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let script = "mount -t tmpfs -o size=1m,mode=0700 none \"$0\" || exit 77; exec \"$@\"";
        // Whoever is no superuser, or is one in a container, may still be one of a namespace of its own.
        let attempts: [&[&str]; 2] = [&[], &["--user", "--map-root-user"]];
        for more in attempts {
            let mut command = std::process::Command::new("unshare");
            command.args(more).args(["--mount", "sh", "-c", script]).arg(directory.path());
            command.arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
            let Ok(output) = command.env(SMALL_DISK, directory.path()).output() else { return false };
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            if output.status.success() {
                assert!(said.contains("1 passed"), "{said}");
                return true;
            }
            // No namespace of its own, or no disk in it; anything else is the test's own end.
            assert!(
                matches!(output.status.code(), Some(1 | 77)) && !said.contains("panicked"),
                "{}: {said}",
                output.status
            );
        }
        false
    }

    #[test]
    #[allow(clippy::print_stderr, reason = "a test that is not made says so")]
    fn z1_fault_14_a_disk_that_is_really_full_keeps_whole_records_and_gives_up_its_reserve_first() {
        let Some(path) = std::env::var_os(SMALL_DISK).map(PathBuf::from) else {
            let name = "raft::disk::file::tests::\
                        z1_fault_14_a_disk_that_is_really_full_keeps_whole_records_and_gives_up_its_reserve_first";
            if !on_a_small_disk(name) {
                assert_ne!(
                    std::env::var("WEFT_TEST_REQUIRE").as_deref(),
                    Ok("all"),
                    "{name}: no disk can be mounted here"
                );
                eprintln!("SKIPPED {name}: no disk of its own can be mounted here");
            }
            return;
        };
        let mut disk = FileDisk::open(&path).unwrap();
        assert!(disk.space().unwrap().unwrap().total <= 1 << 20);
        let reserve = path.join("reserve");
        assert!(reserve.exists(), "space is held back");
        let (mut written, mut without_reserve) = (Vec::new(), None);
        let error = loop {
            let record = vec![u8::try_from(written.len() / 10_007 % 251).unwrap(); 10_007];
            match disk.append("log", &record).and_then(|()| disk.sync("log")) {
                Ok(()) => written.extend(record),
                Err(error) => break error,
            }
            if !reserve.exists() && without_reserve.is_none() {
                without_reserve = Some(written.len());
            }
        };
        assert!(is_full(&error), "{error}");
        assert!(without_reserve.is_some(), "what was held back let one record more in");
        assert!(disk.read("log").unwrap() == written, "what was acknowledged is there, and no part of anything else");
        assert!(disk.append("log", &[7; 10_007]).is_err(), "it is still full");
        assert!(disk.read("log").unwrap() == written);
        // Another process finds the same, and once there is space it takes records again.
        drop(disk);
        let mut disk = FileDisk::open(&path).unwrap();
        disk.truncate("log", 10_007).unwrap();
        disk.append("log", &[7; 10_007]).unwrap();
        disk.sync("log").unwrap();
        assert!(disk.read("log").unwrap() == [&written[..10_007], &[7; 10_007]].concat());
    }

    #[test]
    fn what_is_written_aside_is_whole_or_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(directory.path()).unwrap();
        let aside = disk.aside().unwrap();
        aside.write("a", b"longer than what follows").unwrap();
        aside.write("a", b"whole").unwrap();
        assert_eq!(aside.read("a").unwrap(), b"whole");
        assert_eq!(fs::metadata(directory.path().join("a")).unwrap().mode() & 0o777, 0o600);
        fs::create_dir(directory.path().join("b")).unwrap();
        aside.write("b", b"x").unwrap_err();
        assert_eq!(aside.read("c").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn z4_a_path_that_is_a_file_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, b"x").unwrap();
        let error = FileDisk::open(&path).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}

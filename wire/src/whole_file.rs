//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// Replaces the file at `path` in one step, by one that has this mode from its first byte on and belongs to this user and group,
/// where they are named. Nobody ever reads half of it, and what was there before stays if it fails.
///
/// # Errors
///
/// What the system says; also where only the directory could not be synced, and the new file is there.
pub fn replace_file(path: &Path, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    // What somebody else left there could be open, or have another mode.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
        // Whatever the process's umask takes away.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        if let Some((user, group)) = owner {
            fchown(&file, Some(user), Some(group))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    })();
    if let Err(error) = written {
        // Half of it is of no use to anybody.
        let _absent = fs::remove_file(&fresh);
        return Err(error);
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(path: &Path) -> (String, u32) {
        (fs::read_to_string(path).unwrap(), fs::metadata(path).unwrap().permissions().mode() & 0o777)
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_whatever_was_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        replace_file(&path, b"one", 0o600, None).unwrap();
        assert_eq!(look(&path), ("one".to_owned(), 0o600));
        fs::write(directory.path().join("token.new"), "half").unwrap();
        replace_file(&path, b"two", 0o644, None).unwrap();
        assert_eq!(look(&path), ("two".to_owned(), 0o644));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn what_fails_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::create_dir(&path).unwrap();
        replace_file(&path, b"one", 0o600, None).unwrap_err();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left behind");
        replace_file(Path::new("/"), b"one", 0o600, None).unwrap_err();
    }
}

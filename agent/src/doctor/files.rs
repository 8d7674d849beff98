//! Files: who may read them, and how much room is left.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use wire::diagnosis::Finding;

use super::SecretFile;

/// The bits of a mode that let anybody but the owner do anything.
const OTHERS: u32 = 0o077;
/// With less room on the disk than this it is worth a look.
const FREE_WARNING: u64 = 1 << 30;
/// With less than this it is about to stop working.
const FREE_PROBLEM: u64 = 128 << 20;

/// Judges a data directory: its mode, its owner, all that is in it, and the disk that it is on.
pub(super) fn data_dir(path: &Path) -> Vec<Finding> {
    let shown = path.display();
    let directory = match fs::metadata(path) {
        Ok(found) if found.is_dir() => found,
        Ok(_) => return vec![Finding::problem("files", format!("`{shown}` is no directory"), "name another data_dir")],
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return vec![Finding::warning(
                "files",
                format!("there is no data directory `{shown}`: it has never run here"),
                "start the unit, or name the directory with --data-dir",
            )];
        }
        Err(error) => return vec![unreadable(path, &error)],
    };
    let mut open = Vec::new();
    let mut foreign = Vec::new();
    let mut failed = None;
    for (file, found) in within(path, &mut failed) {
        if found.mode() & OTHERS != 0 && !found.is_symlink() {
            open.push(file.clone());
        }
        if found.uid() != directory.uid() {
            foreign.push(file);
        }
    }
    let mut findings: Vec<Finding> = failed.into_iter().collect();
    if directory.mode() & OTHERS != 0 {
        // What is in a closed directory is out of reach whatever its own mode.
        let finding = format!("`{shown}` has mode {:04o}: others may look into it", directory.mode() & 0o7777);
        findings.push(Finding::problem("files", finding, format!("chmod 0700 {shown}")));
        findings.extend(open.iter().map(|file| {
            let file = file.display();
            Finding::problem("files", format!("others may read `{file}`"), format!("chmod go= {file}"))
        }));
    }
    if let Some(first) = foreign.first() {
        let finding = format!(
            "{} of the files in `{shown}` belong to another user, such as `{}`",
            foreign.len(),
            first.display()
        );
        findings.push(Finding::problem("files", finding, format!("chown -R --reference={shown} {shown}")));
    }
    if findings.is_empty() {
        findings.push(Finding::fine("files", format!("`{shown}` is its owner's alone")));
    }
    findings.push(disk(path));
    findings
}

/// Lists what is in a directory and in those below it.
fn within(path: &Path, failed: &mut Option<Finding>) -> Vec<(PathBuf, fs::Metadata)> {
    let mut found = Vec::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(directory) = waiting.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                *failed = Some(unreadable(&directory, &error));
                continue;
            }
        };
        for entry in entries.flatten() {
            // What is gone in between is not there.
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
            found.push((entry.path(), metadata));
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found
}

fn unreadable(path: &Path, error: &io::Error) -> Finding {
    let advice = "run this as root, or as the user that weft runs as";
    Finding::unknown("files", format!("cannot look into `{}`: {error}", path.display()), advice)
}

fn disk(path: &Path) -> Finding {
    let room = match rustix::fs::statvfs(path) {
        Ok(room) => room,
        Err(error) => {
            return Finding::unknown("disk", format!("cannot ask for the room on it: {error}"), "try as root");
        }
    };
    let (free, total) = (room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize);
    let finding = format!("{} of {} MiB are free where `{}` is", free >> 20, total >> 20, path.display());
    let advice = "make room: on a full disk a server takes no writes, and an agent forgets what it learns";
    match free {
        ..FREE_PROBLEM => Finding::problem("disk", finding, advice),
        FREE_PROBLEM..FREE_WARNING => Finding::warning("disk", finding, advice),
        _ => Finding::fine("disk", finding),
    }
}

/// Judges a file that holds a secret.
pub(super) fn secret(file: &SecretFile) -> Finding {
    let shown = file.path.display();
    match fs::metadata(&file.path) {
        Ok(found) if found.mode() & OTHERS == 0 => Finding::fine("files", format!("`{shown}` is its owner's alone")),
        Ok(found) if found.mode() & 0o7777 == 0o440 && found.uid() == 0 => {
            Finding::fine("files", format!("`{shown}` is root's, and of one group to read"))
        }
        Ok(found) => {
            let finding = format!("`{shown}` holds a secret and has mode {:04o}", found.mode() & 0o7777);
            Finding::problem(
                "files",
                finding,
                format!("chmod 0600 {shown}; and replace the secret, for others may have read it"),
            )
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !file.is_needed => {
            Finding::fine("files", format!("`{shown}` is gone, and is not needed any more"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::problem(
            "files",
            format!("there is no file `{shown}`"),
            "write it, or name another one in the settings",
        ),
        Err(error) => unreadable(&file.path, &error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use wire::diagnosis::Verdict;

    use super::*;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[track_caller]
    fn wrong(findings: &[Finding], want: &[&str]) {
        let found: Vec<&Finding> =
            findings.iter().filter(|it| it.verdict != Verdict::Fine && it.check == "files").collect();
        assert_eq!(found.len(), want.len(), "{found:#?}");
        for (finding, want) in found.iter().zip(want) {
            assert!(finding.finding.contains(want) && !finding.advice.is_empty(), "{finding:?}");
        }
    }

    #[test]
    fn what_others_may_read_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        wrong(&data_dir(&data), &["never run here"]);
        fs::create_dir(&data).unwrap();
        fs::write(data.join("identity.json"), "").unwrap();
        set(&data, 0o700);
        // Nobody gets at it, whatever its mode.
        set(&data.join("identity.json"), 0o644);
        wrong(&data_dir(&data), &[]);
        set(&data, 0o750);
        wrong(&data_dir(&data), &["has mode 0750", "identity.json"]);
        set(&data.join("identity.json"), 0o600);
        wrong(&data_dir(&data), &["has mode 0750"]);
        wrong(&data_dir(&data.join("identity.json")), &["is no directory"]);
    }

    #[test]
    fn a_secret_that_others_may_read_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("join-token");
        let file = |is_needed| SecretFile { path: path.clone(), is_needed };
        wrong(&[secret(&file(true))], &["there is no file"]);
        wrong(&[secret(&file(false))], &[]);
        fs::write(&path, "").unwrap();
        set(&path, 0o640);
        wrong(&[secret(&file(false))], &["holds a secret and has mode 0640"]);
        set(&path, 0o400);
        wrong(&[secret(&file(true))], &[]);
    }

    #[test]
    fn the_room_on_the_disk_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let found = disk(directory.path());
        assert!(found.check == "disk" && found.finding.contains("MiB are free where"), "{found:?}");
    }
}

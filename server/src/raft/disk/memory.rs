//! A directory in memory: for `weft dev`, and for simulation with loss of what was not synced.

use std::collections::BTreeMap;
use std::io;

use super::{Disk, Space};
use wire::random::Seeded;

/// What a real disk writes at once or not at all.
const SECTOR: usize = 512;

/// A directory in memory.
///
/// Dropping it loses everything. [`MemoryDisk::crash`] does what a power cut does to a real one.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    files: BTreeMap<String, MemoryFile>,
    /// How many bytes fit; as many as there are where nothing is said.
    capacity: Option<u64>,
}

#[derive(Debug, Clone, Default)]
struct MemoryFile {
    bytes: Vec<u8>,
    /// How much of `bytes` survives a crash.
    synced: usize,
    /// Whether the name survives a crash.
    is_durable: bool,
}

impl MemoryDisk {
    /// Returns an empty directory.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// Does what a power cut does: of what was not synced, nothing, all, or a part cut at any byte remains, or the
    /// file has its full length and zeros in sectors that were not written. The seed decides.
    pub fn crash(&mut self, seed: u64) {
        let mut random = Seeded::new(seed);
        let mut lost_names = Vec::new();
        for (name, file) in &mut self.files {
            let unsynced = (file.bytes.len() - file.synced) as u64;
            if !file.is_durable && random.below(2) == 0 {
                lost_names.push(name.clone());
                continue;
            }
            let kept = file.synced + random.below(unsynced + 1) as usize;
            match random.below(4) {
                0 => file.bytes.truncate(file.synced),
                1 if unsynced > 0 => {
                    let boundary = (kept / SECTOR * SECTOR).max(file.synced);
                    file.bytes[boundary..].fill(0);
                }
                _ => file.bytes.truncate(kept),
            }
            file.synced = file.bytes.len();
            file.is_durable = true;
        }
        for name in lost_names {
            self.files.remove(&name);
        }
    }

    /// Lets the disk hold this many bytes and no more; nothing says that it is without an end.
    pub fn set_capacity(&mut self, capacity: Option<u64>) {
        self.capacity = capacity;
    }

    /// Returns how many bytes the files have.
    pub fn used(&self) -> u64 {
        self.files.values().map(|file| file.bytes.len() as u64).sum()
    }

    /// Returns a file's bytes to damage them, as a failing disk does.
    pub fn file_mut(&mut self, file: &str) -> Option<&mut Vec<u8>> {
        self.files.get_mut(file).map(|file| &mut file.bytes)
    }

    fn existing(&mut self, file: &str) -> io::Result<&mut MemoryFile> {
        self.files.get_mut(file).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

impl Disk for MemoryDisk {
    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let room = self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()));
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        // As real ones do it: what still fits is written.
        self.files.entry(file.to_owned()).or_default().bytes.extend_from_slice(&bytes[..fits]);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self, file: &str) -> io::Result<()> {
        let file = self.existing(file)?;
        file.synced = file.bytes.len();
        file.is_durable = true;
        Ok(())
    }

    fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        self.files.get(file).map(|file| file.bytes.clone()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut file = self.files.remove(from).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        file.is_durable = true;
        self.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&mut self, file: &str) -> io::Result<()> {
        self.files.remove(file).map(drop).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
        let file = self.existing(file)?;
        file.bytes.truncate(length as usize);
        file.synced = file.bytes.len();
        Ok(())
    }

    fn space(&mut self) -> io::Result<Option<Space>> {
        let used = self.used();
        Ok(self.capacity.map(|total| Space { total, free: total.saturating_sub(used) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_any_part_of_the_rest() {
        let mut lengths = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut disk = MemoryDisk::new();
            disk.append("log", b"synced").unwrap();
            disk.sync("log").unwrap();
            disk.append("log", b"unsynced").unwrap();
            disk.append("new", b"x").unwrap();
            disk.crash(seed);
            let bytes = disk.read("log").unwrap();
            assert!(bytes.starts_with(b"synced"), "seed {seed}: {bytes:?}");
            lengths.insert(bytes.len());
        }
        assert_eq!(lengths, (6..=14).collect(), "every cut happens");
    }

    #[test]
    fn a_crash_is_decided_by_its_seed() {
        let crashed = |seed| {
            let mut disk = MemoryDisk::new();
            disk.append("log", &[7; 4000]).unwrap();
            disk.crash(seed);
            disk.read("log").ok()
        };
        assert_eq!(crashed(3), crashed(3));
    }
}

//! A simulated server's disk.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use server::raft::{Disk, MemoryDisk, Space};

/// A disk in memory that may break, and that may lie about syncing.
#[derive(Debug, Default)]
pub(crate) struct SimDisk {
    pub(crate) memory: MemoryDisk,
    /// How many writing operations still succeed. Shared with whoever decides that the disk breaks.
    pub(crate) writes_left: Rc<Cell<Option<u64>>>,
    /// Whether it says that it is full. Shared like `writes_left`.
    pub(crate) is_full: Rc<Cell<bool>>,
    /// Whether every other sync does nothing: the bug that the checks must find.
    pub(crate) is_lying: bool,
    pub(crate) syncs: u64,
}

impl SimDisk {
    fn spend(&self) -> io::Result<()> {
        match self.writes_left.get() {
            Some(0) => Err(io::Error::other("the simulated disk broke")),
            left => {
                self.writes_left.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }
}

impl Disk for SimDisk {
    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        // A write that fails may have written a part.
        let broken = self.spend();
        let written = if broken.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        self.memory.append(file, written)?;
        broken
    }

    fn sync(&mut self, file: &str) -> io::Result<()> {
        self.spend()?;
        self.syncs += 1;
        if self.is_lying && self.syncs.is_multiple_of(2) { Ok(()) } else { self.memory.sync(file) }
    }

    fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        self.memory.read(file)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.memory.list()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.spend()?;
        self.memory.rename(from, to)
    }

    fn remove(&mut self, file: &str) -> io::Result<()> {
        self.spend()?;
        self.memory.remove(file)
    }

    fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
        self.spend()?;
        self.memory.truncate(file, length)
    }

    fn space(&mut self) -> io::Result<Option<Space>> {
        const TOTAL: u64 = 1 << 32;
        Ok(Some(Space { total: TOTAL, free: if self.is_full.get() { 0 } else { TOTAL / 2 } }))
    }
}

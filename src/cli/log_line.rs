//! One line of the log, from its first byte to whoever takes it.

use std::{
    io::{self, Write},
    mem,
};

/// Takes whole lines.
pub(super) trait TakeLine {
    /// Takes one line, which is not empty.
    fn take(&mut self, line: Vec<u8>);
}

/// Gathers one line; dropping it hands it over.
#[derive(Debug)]
pub(super) struct Line<T: TakeLine> {
    taker: T,
    bytes: Vec<u8>,
}

impl<T: TakeLine> Line<T> {
    /// Begins a line for `taker`.
    pub(super) fn new(taker: T) -> Self {
        Self { taker, bytes: Vec::new() }
    }
}

impl<T: TakeLine> Write for Line<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T: TakeLine> Drop for Line<T> {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.taker.take(mem::take(&mut self.bytes));
        }
    }
}

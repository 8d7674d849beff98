//! The threads that carry Raft's connections, apart from those that serve the API and the agents: a burst of requests
//! must not cost a leader its heartbeats.

use std::io;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};

use super::start::ConsensusError;

/// One carries messages while the other is busy with a handshake or a large frame.
const THREADS: usize = 2;

/// Is a runtime of its own; dropping it ends what runs in it.
#[derive(Debug)]
pub(crate) struct IoRuntime(Option<Runtime>);

impl IoRuntime {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`ConsensusError::Thread`] where there are none to be had.
    pub(crate) fn new() -> Result<Self, ConsensusError> {
        let runtime =
            Builder::new_multi_thread().worker_threads(THREADS).thread_name("weft-raft-io").enable_all().build();
        runtime.map(|runtime| Self(Some(runtime))).map_err(ConsensusError::Thread)
    }

    /// Returns what spawns onto the threads.
    pub(crate) fn handle(&self) -> Handle {
        self.0.as_ref().expect("it is taken on drop only").handle().clone()
    }

    /// Takes over a listener from the caller's runtime.
    ///
    /// # Errors
    /// As the operating system says.
    pub(crate) fn adopt(&self, listener: TcpListener) -> io::Result<TcpListener> {
        let listener = listener.into_std()?;
        let _entered = self.handle().enter();
        TcpListener::from_std(listener)
    }
}

impl Drop for IoRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // It is dropped within another runtime, which must not wait.
            runtime.shutdown_background();
        }
    }
}

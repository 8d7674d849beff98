//! `weft demo`: the whole story on one machine, told with what was really observed.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Args;

use super::daemon::stop_signal;

mod app;
mod mesh;
mod process;
mod story;

/// Watch a mesh refuse a call, allow it, survive its leader and cut it again.
///
/// Starts three servers and three agents as processes on loopback, with their data in a temporary directory. The agents
/// stand for a virtual machine, an ECS task and a Kubernetes pod; beside each runs a small HTTP service. Nothing is left
/// behind when it ends.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// End after the story, with status 0 only if every step came out as told
    #[arg(long)]
    exit: bool,
    /// Keep the temporary directory, with every process's log
    #[arg(long)]
    keep: bool,
}

/// How long the slowest step may take before the story gives up on it.
const STEP_DEADLINE: Duration = Duration::from_secs(30);

pub(crate) async fn run(arguments: Demo) -> anyhow::Result<ExitCode> {
    let mut directory =
        tempfile::Builder::new().prefix("weft-demo-").tempdir().context("making a temporary directory")?;
    directory.disable_cleanup(arguments.keep);
    let mut mesh = mesh::Mesh::new(directory.path());
    // One signal ends whatever is going on, from before anything was started; what was is always stopped in order.
    let ending = tokio::select! {
        biased;
        stopped = stop_signal() => stopped,
        told = tell(&mut mesh, arguments.exit) => told,
    };
    story::say("\nStopping.");
    let as_told = mesh.is_as_told;
    mesh.stop().await;
    if arguments.keep {
        story::say(&format!("Everything is kept in {}", directory.path().display()));
    }
    ending?;
    Ok(if as_told { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Tells the story; then stays until it is dropped, unless it shall end with the story.
async fn tell(mesh: &mut mesh::Mesh, exit: bool) -> anyhow::Result<()> {
    mesh.start().await?;
    mesh.is_as_told = story::tell(mesh).await?;
    if !exit {
        story::invite(mesh);
        std::future::pending::<()>().await;
    }
    Ok(())
}

//! What the long-running commands share: their log, their signals, and what a process that holds keys forbids.

use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use tracing_subscriber::{EnvFilter, Layer, fmt, prelude::*};
use wire::log_monitor::LineForm;

use super::{log_monitor::Monitor, log_writer::LogWriter, supervisor};

/// The way out for log lines, of commands that run long.
static LOG: OnceLock<LogWriter> = OnceLock::new();
/// How long a process that ends waits for somebody to take its last lines.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Is the form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogForm {
    /// For people.
    Text,
    /// For programs: one object a line.
    Json,
}

/// Says what a long-running command logs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log options")]
pub(super) struct LogOptions {
    /// What to log: a level, or levels by part such as `warn,server=debug`
    #[arg(long, env = "WEFT_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// The form of log lines
    #[arg(long, value_enum, env = "WEFT_LOG_FORMAT", default_value_t = LogForm::Text, value_name = "FORM")]
    log_format: LogForm,
}

/// Prepares this process for running long: its log on standard error, and no core dumps, for it holds private keys.
pub(super) fn prepare(options: &LogOptions) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&options.log).with_context(|| format!("reading the log filter `{}`", options.log))?;
    let writer = LogWriter::start(std::io::stderr()).context("starting the thread that writes the log")?;
    let lines = fmt::layer().with_writer(LOG.get_or_init(|| writer).clone());
    let lines = match options.log_format {
        LogForm::Text => lines.with_ansi(false).boxed(),
        LogForm::Json => lines.json().flatten_event(true).boxed(),
    };
    let (text, json) = (Monitor(LineForm::Text), Monitor(LineForm::Json));
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(fmt::layer().with_writer(text).with_ansi(false).with_filter(text))
        .with(fmt::layer().with_writer(json).json().flatten_event(true).with_filter(json))
        .try_init()?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("forbidding core dumps")?;
    // Whoever starts us for a demo or a test may be killed; we must not outlive it.
    if std::env::var_os("WEFT_STOP_WITH_PARENT").is_some() {
        set_parent_process_death_signal(Some(Signal::TERM)).context("asking to be stopped with the parent process")?;
    }
    Ok(())
}

/// Sees to it that what was logged is written before the process ends.
pub(super) fn flush() {
    if let Some(log) = LOG.get() {
        log.flush(FLUSH_MAX);
    }
}

/// Waits for SIGTERM or SIGINT.
pub(super) async fn stop_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Is every SIGHUP since it was made: before, one ends the process.
pub(super) struct Hangups(tokio::signal::unix::Signal);

impl Hangups {
    /// Takes them from now on; what comes while a daemon starts is heard once it runs.
    pub(super) fn heard() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self(signal(SignalKind::hangup()).context("listening for SIGHUP")?))
    }
}

/// Waits for a signal to stop, or for `leave`; meanwhile every SIGHUP has `reload` done, and the supervisor hears `status`.
pub(super) async fn until_stopped_or(
    Hangups(mut hangup): Hangups,
    leave: impl Future<Output = ()>,
    reload: impl AsyncFn(),
    status: impl Fn() -> String,
) -> anyhow::Result<()> {
    supervisor::ready(&status());
    let (stop, telling) = (stop_signal(), supervisor::keep_telling(&status));
    tokio::pin!(stop, leave, telling);
    loop {
        tokio::select! {
            stopped = &mut stop => return stopped,
            () = &mut leave => return Ok(()),
            () = &mut telling => {}
            _ = hangup.recv() => {
                supervisor::reloading();
                reload().await;
                supervisor::ready(&status());
            }
        }
    }
}

/// Waits for a signal to stop, or for `failed` to say why it must end; meanwhile the supervisor hears `status`.
pub(super) async fn until_stopped<E>(
    hangups: Hangups,
    failed: impl Future<Output = E>,
    status: impl Fn() -> String,
) -> anyhow::Result<ExitCode>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut failure = None;
    let failed = async { failure = Some(failed.await) };
    let reload = async || tracing::info!("a server reads its files when it starts, and nothing again");
    until_stopped_or(hangups, failed, reload, status).await?;
    failure.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
}

//! The real binary, run as a user runs it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::config::SOURCE;
use crate::http::{self, Ledger, Metrics, Response};
use crate::jsonl::{self, Line};
use crate::net::free_port;
use crate::process::Process;
use crate::wait::{wait_for, wait_until};

const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// The host's own grace is 10 s by default.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// The folder of the programs: the executables of tests are in its `deps`, other programs in it.
fn programs() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let folder = this.parent().context("a program without a folder")?;
    let above = folder.parent().filter(|_| folder.ends_with("deps"));
    Ok(above.unwrap_or(folder).to_owned())
}

/// The target folder: the programs are in its `debug`.
pub fn target() -> Result<PathBuf> {
    let folder = programs()?;
    Ok(folder.parent().context("a program outside a target folder")?.to_owned())
}

/// A program of this workspace, built by `cargo build --workspace --all-targets`.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = programs()?.join(name);
    if !path.is_file() {
        bail!("no program {}: build it with `make build`", path.display());
    }
    Ok(path)
}

/// Runs the binary with `arguments` until it ends; for commands that end by themselves.
pub async fn run(arguments: &[&str], folder: &Path) -> Result<Output> {
    let mut command = tokio::process::Command::new(program("rivven-mqtt")?);
    command
        .args(arguments)
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .env("XDG_CACHE_HOME", target()?.join("cache"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(READY_TIMEOUT, command.output()).await;
    Ok(output.with_context(|| format!("rivven-mqtt {arguments:?} does not end"))??)
}

/// A host that runs, or has run, with one configuration. Its log is shown when the test fails.
#[derive(Debug)]
pub struct Host {
    process: Process,
    http: u16,
    start: Start,
    folder: TempDir,
}

/// How the program is started, each time.
#[derive(Debug, Default)]
struct Start {
    options: Vec<String>,
    variables: Vec<(String, String)>,
    /// A command that becomes the program, which follows it.
    wrapper: Vec<String>,
}

impl Host {
    /// Writes `config` into a folder of its own, where its state goes too, and starts the host.
    pub fn start(config: &Value) -> Result<Self> {
        Self::start_with(config, &[])
    }

    /// As [`Host::start`], with more options for `run`.
    pub fn start_with(config: &Value, options: &[&str]) -> Result<Self> {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Self::start_as(config, Start { options, ..Start::default() })
    }

    /// As [`Host::start`], through a command that becomes the program that follows it, and with more variables in the
    /// environment. The command finds the folder to change to in `FOLDER`.
    pub fn start_under(config: &Value, wrapper: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        Self::start_as(config, Start { variables, wrapper, ..Start::default() })
    }

    fn start_as(config: &Value, start: Start) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let http = free_port()?;
        let mut config = config.clone();
        config["settings"]["http"]["listen"] = format!("127.0.0.1:{http}").into();
        if config["settings"]["state_dir"].is_null() {
            config["settings"]["state_dir"] = "state".into();
        }
        fs::write(folder.path().join("config.yaml"), serde_json::to_string_pretty(&config)?)?;
        Self::spawn(folder, http, start)
    }

    /// Starts a host with one source from the text of a configuration without `settings`, once `prepare` has put what it
    /// needs into its folder.
    pub fn start_text(text: &str, prepare: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let http = free_port()?;
        prepare(folder.path())?;
        let settings = format!("\nsettings: {{state_dir: state, http: {{listen: \"127.0.0.1:{http}\"}}}}\n");
        fs::write(folder.path().join("config.yaml"), format!("{text}{settings}"))?;
        Self::spawn(folder, http, Start::default())
    }

    /// Starts a host from a text to which nothing is added, so that its HTTP address is the default one, which may be
    /// another's: ask it nothing. `prepare` puts what it needs into its folder, and gives the text back.
    pub fn start_verbatim(
        variables: &[(&str, &str)],
        prepare: impl FnOnce(&Path) -> Result<String>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let text = prepare(folder.path())?;
        fs::write(folder.path().join("config.yaml"), text)?;
        let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self::spawn(folder, 9091, Start { variables, ..Start::default() })
    }

    fn spawn(folder: TempDir, http: u16, start: Start) -> Result<Self> {
        let process = spawn(folder.path(), &start)?;
        Ok(Host { process, http, start, folder })
    }

    /// Starts it again with the same configuration, state and port, after it has ended.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.status()?.is_none() {
            bail!("the host still runs");
        }
        self.process = spawn(self.folder.path(), &self.start)?;
        Ok(())
    }

    /// Waits until `/ready` says yes.
    pub async fn ready(&mut self) -> Result<()> {
        let mut last = String::new();
        let what = "the host is ready";
        let ready = wait_until(what, READY_TIMEOUT, async || {
            if let Ok(Some(status)) = self.process.status() {
                return Some(Err(anyhow::anyhow!("the host has ended with {status}")));
            }
            let answer = http::get(self.http, "/ready").await.ok()?;
            last = answer.body;
            (answer.status == 200).then_some(Ok(()))
        });
        match ready.await {
            Ok(outcome) => outcome,
            Err(error) => Err(error.context(format!("/ready says: {last}"))),
        }
        .with_context(|| format!("the host's log:\n{}", self.log()))
    }

    /// Waits until `/ready` says no with a text that contains `reason`, and returns the text.
    pub async fn not_ready(&self, reason: &str) -> Result<String> {
        wait_until(&format!("/ready says no because of {reason}"), READY_TIMEOUT, async || {
            let answer = self.get("/ready").await.ok()?;
            (answer.status == 503 && answer.body.contains(reason)).then_some(answer.body)
        })
        .await
    }

    /// Asks one of its HTTP endpoints.
    pub async fn get(&self, path: &str) -> Result<Response> {
        http::get(self.http, path).await
    }

    /// Scrapes `/metrics`.
    pub async fn metrics(&self) -> Result<Metrics> {
        let answer = self.get("/metrics").await?;
        if answer.status != 200 {
            bail!("/metrics answers {}", answer.status);
        }
        Metrics::parse(&answer.body)
    }

    /// The loss equation of one scrape. That it balances is checked here, so by every test that looks at it.
    pub async fn ledger(&self) -> Result<Ledger> {
        let ledger = self.metrics().await?.ledger()?;
        if !ledger.balances() {
            bail!("the loss equation does not balance: {ledger:?}");
        }
        Ok(ledger)
    }

    /// Waits until `condition` holds for the loss equation, and returns it.
    pub async fn wait_for_ledger(
        &self,
        what: &str,
        timeout: Duration,
        condition: impl Fn(&Ledger) -> bool,
    ) -> Result<Ledger> {
        let mut last = None;
        let found = wait_until(what, timeout, async || match self.ledger().await {
            Ok(ledger) => {
                last = Some(ledger);
                condition(&ledger).then_some(Ok(ledger))
            }
            // Only an equation that does not balance ends the wait; an unreachable host may be starting.
            Err(error) => format!("{error:#}").contains("does not balance").then_some(Err(error)),
        });
        match found.await {
            Ok(ledger) => ledger,
            Err(error) => {
                Err(error.context(format!("the loss equation is {last:?}; the host's log:\n{}", self.log())))
            }
        }
    }

    /// Waits until its log contains `text`.
    pub async fn wait_for_log(&self, text: &str, timeout: Duration) -> Result<()> {
        wait_for(&format!("the host logs {text:?}"), timeout, async || self.log().contains(text)).await
    }

    /// All that it has written to stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// All that it has written to stdout.
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.folder.path().join("stdout")).unwrap_or_default()
    }

    /// The loss equation of the line that it ended with. That it balances is checked here.
    pub fn final_ledger(&self) -> Result<Ledger> {
        let log = self.log();
        let prefix = format!("{SOURCE}: received ");
        let line = log.lines().rfind(|line| line.starts_with(&prefix));
        let ledger =
            Ledger::parse(line.with_context(|| format!("no final line in the host's log:\n{log}"))?)?;
        if !ledger.balances() {
            bail!("the final loss equation does not balance: {ledger:?}");
        }
        Ok(ledger)
    }

    /// The records in a file that the sink has written to the host's folder; none while there is no such file.
    pub fn lines(&self, file: &str) -> Result<Vec<Line>> {
        match fs::read_to_string(self.folder.path().join(file)) {
            Ok(text) => jsonl::parse(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// The folder of its configuration.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The port of its HTTP endpoints.
    pub fn http_port(&self) -> u16 {
        self.http
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGTERM, and wait for the clean drain to end.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        self.ended().await
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// SIGKILL: what a crash looks like.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.ended().await?;
        Ok(())
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        let status = self.process.ended(STOP_TIMEOUT).await;
        status.with_context(|| format!("the host's log:\n{}", self.log()))
    }
}

fn spawn(folder: &Path, start: &Start) -> Result<Process> {
    let append = |name: &str| File::options().create(true).append(true).open(folder.join(name));
    let mut words = start.wrapper.iter().map(OsString::from).chain([program("rivven-mqtt")?.into()]);
    let child = Command::new(words.next().unwrap_or_default())
        .args(words)
        .args(["run", "-c", "config.yaml"])
        .args(&start.options)
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .env("FOLDER", folder)
        .envs(start.variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(append("stdout")?)
        .stderr(append("log")?)
        .spawn()
        .context("cannot run rivven-mqtt")?;
    Ok(Process::new(child, Signal::SIGKILL, Duration::from_secs(5)))
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[allow(clippy::print_stderr)] // The test harness shows it with the test that failed.
            {
                eprintln!("--- log of the host ---\n{}", self.log());
            }
        }
    }
}

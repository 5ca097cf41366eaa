//! A mosquitto of one test: its own configuration, its own ports, and a session store that survives a restart.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use testcontainers::bollard::models::{HostConfigLogConfig, PortBinding};
use testcontainers::core::IntoContainerPort;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use tokio::net::TcpStream;

use crate::certs::Certificates;
use crate::image::{self, LABEL, Origin};
use crate::net::free_port;
use crate::process::Process;
use crate::wait::wait_for;

/// The user that [`Setup::password`] lets in.
pub const USERNAME: &str = "fleet";
/// Its password. The space and the quote are there to be mistaken.
pub const PASSWORD: &str = "correct horse";
/// Lines of mosquitto's password file, as `mosquitto_passwd` writes them: the two, and `user`, whom the page of the existing
/// connector names, with the same password.
const PASSWORD_FILE: &str = "\
fleet:$7$101$q0UKOyRS+QWB8mXF$K0XRqeEPIPixsrQKYJKrmaenbxxLUtDGVdTBHSCQbMmIShrWHqHf4zp09kSOGQjeqt/4ql5dleEo8Dc9NpLm/Q==
user:$7$101$umMh2bw3EU5UpvuR$gU6h9MYbeDtonjVCZPghbUt90FBvZHg9Zw/9JtyvuaU18P32pf+ySUahkdb4Poe9i37+HmkQnMCUi6Qh70sgbQ==
";

const PLAIN_PORT: u16 = 1883;
const TLS_PORT: u16 = 8883;
const WS_PORT: u16 = 9001;
const WSS_PORT: u16 = 9443;
/// Where the image has its files, as the official one.
const CONFIG_FOLDER: &str = "/mosquitto/config";
const DATA_FOLDER: &str = "/mosquitto/data";
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// What a test wants of its broker beyond the defaults: anonymous clients, queues that never drop, sessions that survive.
#[derive(Debug, Default)]
pub struct Setup {
    lines: Vec<String>,
    listener_lines: Vec<String>,
    tls_lines: Vec<String>,
    password: bool,
    certificates: Option<Certificates>,
    websockets: bool,
}

impl Setup {
    /// Adds a line of mosquitto.conf, such as `max_inflight_messages 1000` (mosquitto's default is 20).
    #[must_use]
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Adds a line about the plain listener, such as `max_qos 0`.
    #[must_use]
    pub fn listener_line(mut self, line: impl Into<String>) -> Self {
        self.listener_lines.push(line.into());
        self
    }

    /// Lets nobody in but [`USERNAME`] with [`PASSWORD`].
    #[must_use]
    pub fn password(mut self) -> Self {
        self.password = true;
        self
    }

    /// Adds a listener with TLS, see [`Broker::tls_url`], that has the server certificate of `certificates`.
    #[must_use]
    pub fn tls(mut self, certificates: &Certificates) -> Self {
        self.certificates = Some(certificates.clone());
        self
    }

    /// Adds a line to the listeners with TLS, such as `require_certificate true` to want certificates of clients.
    #[must_use]
    pub fn tls_line(mut self, line: impl Into<String>) -> Self {
        self.tls_lines.push(line.into());
        self
    }

    /// Adds a listener for WebSockets, see [`Broker::ws_url`], and with certificates one for WebSockets over TLS, see
    /// [`Broker::wss_url`].
    #[must_use]
    pub fn websockets(mut self) -> Self {
        self.websockets = true;
        self
    }

    /// Starts the broker and waits until it accepts connections.
    pub async fn start(self) -> Result<Broker> {
        let ports = Ports { plain: free_port()?, tls: free_port()?, ws: free_port()?, wss: free_port()? };
        let (has_tls, has_ws) = (self.certificates.is_some(), self.websockets);
        let backend = match image::origin().await? {
            Origin::Image(name, tag) => self.container(name, tag, ports).await?,
            Origin::Program(program) => self.process(&program, ports)?,
        };
        let broker = Broker { backend, ports, has_tls, has_ws };
        broker.answers().await?;
        Ok(broker)
    }

    async fn container(self, name: String, tag: String, ports: Ports) -> Result<Backend> {
        let inside = Ports { plain: PLAIN_PORT, tls: TLS_PORT, ws: WS_PORT, wss: WSS_PORT };
        let config = self.config(inside, "", Path::new(CONFIG_FOLDER), Path::new(DATA_FOLDER));
        let mut request = GenericImage::new(name.as_str(), tag.as_str())
            .with_label(LABEL, image::owner())
            .with_mapped_port(ports.plain, PLAIN_PORT.tcp())
            .with_mapped_port(ports.tls, TLS_PORT.tcp())
            .with_mapped_port(ports.ws, WS_PORT.tcp())
            .with_mapped_port(ports.wss, WSS_PORT.tcp())
            .with_host_config_modifier(|host| {
                for binding in
                    host.port_bindings.iter_mut().flat_map(|ports| ports.values_mut()).flatten().flatten()
                {
                    only_loopback(binding);
                }
                host.log_config = Some(whole_log());
            })
            .with_copy_to(format!("{CONFIG_FOLDER}/mosquitto.conf"), config.into_bytes());
        for (file, content) in self.files() {
            request = request.with_copy_to(format!("{CONFIG_FOLDER}/{file}"), content.into_bytes());
        }
        let container =
            request.start().await.with_context(|| format!("cannot start a container of {name}:{tag}"))?;
        Ok(Backend::Container(container))
    }

    fn process(self, program: &Path, ports: Ports) -> Result<Backend> {
        let folder = tempfile::tempdir()?;
        let config = self.config(ports, " 127.0.0.1", folder.path(), folder.path());
        fs::write(folder.path().join("mosquitto.conf"), config)?;
        for (file, content) in self.files() {
            fs::write(folder.path().join(file), content)?;
        }
        let mut local = Local { program: program.to_owned(), folder, process: None };
        local.start()?;
        Ok(Backend::Process(local))
    }

    fn files(&self) -> Vec<(&'static str, String)> {
        let mut files = Vec::new();
        if self.password {
            files.push(("passwords", PASSWORD_FILE.to_owned()));
        }
        if let Some(certificates) = &self.certificates {
            files.push(("ca.pem", certificates.ca.clone()));
            files.push(("server.pem", certificates.server.clone()));
            files.push(("server.key", certificates.server_key.clone()));
        }
        files
    }

    /// The text of mosquitto.conf; `bind` is what follows the port of a listener.
    fn config(&self, ports: Ports, bind: &str, files: &Path, data: &Path) -> String {
        let mut text = String::new();
        let files = files.display();
        // As root it would become a user that the image and the folders of a test know nothing of.
        let _ = writeln!(text, "user root\nlog_dest stderr\nlog_type all\nconnection_messages true");
        let _ =
            writeln!(text, "persistence true\npersistence_location {}/\nautosave_interval 1", data.display());
        // The default of 1,000 drops messages, which would look like a loss in the host.
        let _ = writeln!(text, "max_queued_messages 10000000");
        if self.password {
            let _ = writeln!(text, "allow_anonymous false\npassword_file {files}/passwords");
        } else {
            let _ = writeln!(text, "allow_anonymous true");
        }
        for line in &self.lines {
            let _ = writeln!(text, "{line}");
        }
        let listeners = [
            (ports.plain, false, false),
            (ports.tls, true, false),
            (ports.ws, false, true),
            (ports.wss, true, true),
        ];
        for (port, tls, websockets) in listeners {
            if tls && self.certificates.is_none() || websockets && !self.websockets {
                continue;
            }
            let _ = writeln!(text, "listener {port}{bind}\nsocket_domain ipv4");
            if websockets {
                let _ = writeln!(text, "protocol websockets");
            }
            if !websockets && !tls {
                for line in &self.listener_lines {
                    let _ = writeln!(text, "{line}");
                }
            }
            if tls {
                let _ = writeln!(
                    text,
                    "cafile {files}/ca.pem\ncertfile {files}/server.pem\nkeyfile {files}/server.key"
                );
                for line in &self.tls_lines {
                    let _ = writeln!(text, "{line}");
                }
            }
        }
        text
    }
}

/// The engine may be configured to forget the beginning of a log; what a test counts in it has to be there.
fn whole_log() -> HostConfigLogConfig {
    let options = HashMap::from([("max-size".to_owned(), "10g".to_owned())]);
    HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(options) }
}

/// Docker would publish on all addresses of the machine.
fn only_loopback(binding: &mut PortBinding) {
    binding.host_ip = Some("127.0.0.1".to_owned());
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    plain: u16,
    tls: u16,
    ws: u16,
    wss: u16,
}

/// A running (or stopped) mosquitto; removed when dropped.
#[derive(Debug)]
pub struct Broker {
    backend: Backend,
    ports: Ports,
    has_tls: bool,
    has_ws: bool,
}

#[derive(Debug)]
enum Backend {
    Container(ContainerAsync<GenericImage>),
    Process(Local),
}

impl Broker {
    /// A broker with the defaults.
    pub async fn launch() -> Result<Broker> {
        Setup::default().start().await
    }

    /// A setup to change before it is started.
    pub fn setup() -> Setup {
        Setup::default()
    }

    /// The port of 127.0.0.1 for plain connections; stays the same over a restart.
    pub fn port(&self) -> u16 {
        self.ports.plain
    }

    /// `mqtt://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.ports.plain)
    }

    /// `mqtts://localhost:PORT`, the name that the certificate is made out to.
    pub fn tls_url(&self) -> String {
        format!("mqtts://localhost:{}", self.ports.tls)
    }

    /// `ws://127.0.0.1:PORT`, for a setup with WebSockets.
    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.ports.ws)
    }

    /// `wss://localhost:PORT`, for a setup with WebSockets and certificates.
    pub fn wss_url(&self) -> String {
        format!("wss://localhost:{}", self.ports.wss)
    }

    /// Stops the broker as a restart of its machine would: connections end, sessions are saved.
    pub async fn stop(&mut self) -> Result<()> {
        match &mut self.backend {
            Backend::Container(container) => {
                container.stop_with_timeout(Some(10)).await.context("cannot stop the broker's container")
            }
            Backend::Process(local) => {
                local.process = None;
                Ok(())
            }
        }
    }

    /// Starts it again on the same ports, with the sessions of before.
    pub async fn start(&mut self) -> Result<()> {
        match &mut self.backend {
            Backend::Container(container) => {
                container.start().await.context("cannot start the broker's container again")?;
            }
            Backend::Process(local) => local.start()?,
        }
        self.answers().await
    }

    /// What the broker has logged so far: connects with client id, subscriptions, every packet.
    pub async fn logs(&self) -> Result<String> {
        match &self.backend {
            Backend::Container(container) => {
                // The official image logs to stdout in some versions, whatever the configuration says.
                let mut log = container.stderr_to_vec().await?;
                log.extend(container.stdout_to_vec().await?);
                Ok(String::from_utf8_lossy(&log).into_owned())
            }
            Backend::Process(local) => Ok(fs::read_to_string(local.folder.path().join("log"))?),
        }
    }

    /// The id of the container, when it is one.
    pub fn container_id(&self) -> Option<&str> {
        match &self.backend {
            Backend::Container(container) => Some(container.id()),
            Backend::Process(_) => None,
        }
    }

    /// Docker's proxy accepts connections before the broker does, so only a CONNACK proves anything.
    async fn answers(&self) -> Result<()> {
        let Ports { plain, tls, ws, wss } = self.ports;
        let ports =
            [(plain, true), (tls, self.has_tls), (ws, self.has_ws), (wss, self.has_ws && self.has_tls)];
        let ready = async || crate::client::answers(self.ports.plain).await;
        if let Err(error) = wait_for("the broker answers a CONNECT", START_TIMEOUT, ready).await {
            let logs = self.logs().await.unwrap_or_default();
            return Err(error.context(format!("the broker's log:\n{logs}")));
        }
        for (port, _) in ports.into_iter().filter(|(_, used)| *used) {
            TcpStream::connect(("127.0.0.1", port))
                .await
                .with_context(|| format!("no listener on port {port}"))?;
        }
        Ok(())
    }
}

/// A mosquitto of the machine's own.
#[derive(Debug)]
struct Local {
    program: std::path::PathBuf,
    folder: TempDir,
    process: Option<Process>,
}

impl Local {
    fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log"))?;
        let child = Command::new(&self.program)
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        self.process = Some(Process::new(child, Signal::SIGTERM, Duration::from_secs(10)));
        Ok(())
    }
}

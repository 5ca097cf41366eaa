//! Where the broker comes from: a container image if a Docker engine answers, else a local mosquitto.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::{
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use testcontainers::core::BuildImageOptions;
use testcontainers::core::client::docker_client_instance;
use testcontainers::runners::{AsyncBuilder, AsyncRunner};
use testcontainers::{GenericBuildableImage, GenericImage};
use tokio::sync::OnceCell;

use crate::packages::{self, say};

/// Names an image to use instead: `NAME` or `NAME:TAG`, with mosquitto 2 as `/usr/sbin/mosquitto`.
pub const IMAGE_VARIABLE: &str = "RIVVEN_MQTT_BROKER_IMAGE";
/// Every container of the tests carries this label; its value says which process it belongs to.
pub const LABEL: &str = "io.rivven.mqtt.test";
/// The official image, used when it is here or can be pulled.
const OFFICIAL: (&str, &str) = ("eclipse-mosquitto", "2");
/// What the image is called that is built from the machine's own mosquitto.
const BUILT: &str = "rivven-mqtt-test-mosquitto";
/// A registry that answers delivers 10 MB in this time; one that does not is not worth waiting for.
const PULL_TIMEOUT: Duration = Duration::from_secs(60);

/// What runs mosquitto.
#[derive(Debug, Clone)]
pub enum Origin {
    /// This image, by name and tag.
    Image(String, String),
    /// This program, because no Docker engine answers.
    Program(PathBuf),
}

/// Decides once for each process, and says on stderr what was decided.
pub async fn origin() -> Result<Origin> {
    static ORIGIN: OnceCell<Origin> = OnceCell::const_new();
    ORIGIN.get_or_try_init(decide).await.cloned()
}

async fn decide() -> Result<Origin> {
    let Some(docker) = engine().await else {
        let program = mosquitto().context(
            "no Docker engine answers, so the broker would have to be a local mosquitto. Start Docker, or",
        )?;
        say(format_args!(
            "broker: the local process {}, because no Docker engine answers",
            program.display()
        ));
        return Ok(Origin::Program(program));
    };
    reap(&docker).await?;
    let (name, tag) = image(&docker).await?;
    say(format_args!("broker: a container of {name}:{tag}"));
    Ok(Origin::Image(name, tag))
}

async fn image(docker: &Docker) -> Result<(String, String)> {
    if let Some(image) = std::env::var(IMAGE_VARIABLE).ok().filter(|image| !image.is_empty()) {
        // The last colon separates the tag, unless it belongs to the port of a registry.
        let split = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
        let (name, tag) = split.unwrap_or((&image, "latest"));
        return Ok((name.to_owned(), tag.to_owned()));
    }
    let (name, tag) = OFFICIAL;
    if docker.inspect_image(&format!("{name}:{tag}")).await.is_ok() {
        return Ok((name.to_owned(), tag.to_owned()));
    }
    // One that an earlier run has built says that the official one could not be pulled: do not try again each time.
    if let Ok(program) = installed_mosquitto() {
        let tag = fingerprint(&program)?;
        if docker.inspect_image(&format!("{BUILT}:{tag}")).await.is_ok() {
            return Ok((BUILT.to_owned(), tag));
        }
    }
    let pull = tokio::time::timeout(PULL_TIMEOUT, GenericImage::new(name, tag).pull_image()).await;
    let reason = match pull {
        Ok(Ok(_)) => return Ok((name.to_owned(), tag.to_owned())),
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => format!("no answer within {PULL_TIMEOUT:?}"),
    };
    say(format_args!(
        "broker: {name}:{tag} cannot be pulled ({reason}), building an image from this machine's mosquitto"
    ));
    let program = mosquitto()?;
    build(&program).await
}

/// The engine, if one answers.
async fn engine() -> Option<Docker> {
    let docker = docker_client_instance().await.ok()?;
    let ping = tokio::time::timeout(Duration::from_secs(10), docker.ping()).await;
    ping.ok()?.ok()?;
    Some(docker)
}

/// Builds an image of nothing but `program` and the libraries that `ldd` names.
async fn build(program: &Path) -> Result<(String, String)> {
    let tag = fingerprint(program)?;
    let mut image = GenericBuildableImage::new(BUILT, tag.as_str())
        .with_dockerfile_string(
            "FROM scratch\n\
             COPY root/ /\n\
             WORKDIR /mosquitto/data\n\
             WORKDIR /\n\
             CMD [\"/usr/sbin/mosquitto\", \"-c\", \"/mosquitto/config/mosquitto.conf\"]\n",
        )
        // mosquitto looks up the user that it is to run as.
        .with_data("root:x:0:0:root:/:/sbin/nologin\n", "root/etc/passwd")
        .with_file(program, "root/usr/sbin/mosquitto");
    for library in libraries(program)? {
        // Under the name that the loader looks for, with the bytes that the link leads to.
        let target = format!("root{}", library.display());
        let file = library.canonicalize().with_context(|| format!("no library {}", library.display()))?;
        image = image.with_file(file, target);
    }
    let _built = image
        .build_image_with(BuildImageOptions::new().with_skip_if_exists(true))
        .await
        .with_context(|| format!("cannot build the image {BUILT}:{tag}"))?;
    Ok((BUILT.to_owned(), tag))
}

/// The shared libraries of `program` and their loader, as absolute paths.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
    if !output.status.success() {
        bail!("ldd {}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// A tag that changes when mosquitto or one of its libraries does.
fn fingerprint(program: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for file in libraries(program)?.iter().map(PathBuf::as_path).chain([program]) {
        let metadata = std::fs::metadata(file).with_context(|| format!("no file {}", file.display()))?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        (file, metadata.len(), modified.as_secs()).hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// The machine's mosquitto; installed when it is missing and this is root.
fn mosquitto() -> Result<PathBuf> {
    if let Ok(program) = installed_mosquitto() {
        return Ok(program);
    }
    packages::install("mosquitto");
    installed_mosquitto()
}

fn installed_mosquitto() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"].map(PathBuf::from))
        .map(|folder| folder.join("mosquitto"))
        .find(|program| program.is_file())
        .with_context(|| {
            format!(
                "install mosquitto 2 (`apt-get install mosquitto`, `brew install mosquitto`), or name an image \
                 that has it in {IMAGE_VARIABLE}"
            )
        })
}

/// Who a container belongs to: this process, in this process-id namespace.
pub fn owner() -> String {
    format!("{} {}", namespace(), std::process::id())
}

/// Process ids mean something inside one namespace only; the engine may serve several.
fn namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default()
}

/// Removes the containers of test processes that were killed before they could.
async fn reap(docker: &Docker) -> Result<()> {
    let filter = std::collections::HashMap::from([("label", vec![LABEL])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filter).build();
    for container in docker.list_containers(Some(options)).await.context("cannot list containers")? {
        let labels = container.labels.unwrap_or_default();
        let owner = labels.get(LABEL).and_then(|owner| owner.rsplit_once(' '));
        let (Some((space, process)), Some(id)) = (owner, container.id) else { continue };
        let Ok(process) = process.parse() else { continue };
        let alive = nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), None).is_ok();
        if space == namespace() && !alive {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            // Another test process may be removing it at this moment.
            let _ = docker.remove_container(&id, Some(options)).await;
        }
    }
    Ok(())
}

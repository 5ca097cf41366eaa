//! From a component to machine code, within limits of time and memory.
//!
//! A compilation cannot be interrupted, and what it takes is the component's choice: a few megabytes of it can keep a compiler
//! busy for hours. So it happens in a process of its own, which is this executable once more, with limits that the system
//! enforces, and ends with it. An executable takes part by calling [`compile_if_asked`] first of all; in one that does not, a
//! thread compiles, and one that takes too long is left behind.

use std::io::{self, Read, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::resource::{Resource, setrlimit};
use wasmtime::Engine;

use super::sandbox;
use crate::config::Limits;
use crate::error::PluginError;

/// The first argument of a process that is to compile.
const COMPILE: &str = "--compile-component";
/// Machine code that is so much larger than its component cannot be right; 2 to 4 times is usual.
const MAX_GROWTH: u64 = 256;
/// The most that is kept of what a compiler says when it crashes, in bytes.
const MAX_SAID: u64 = 4_096;

/// Whether [`compile_if_asked`] was called, so that a process of this executable can compile.
static TAKES_PART: AtomicBool = AtomicBool::new(false);

/// Machine code, and what it took to make it.
#[derive(Debug)]
pub(super) struct Compiled {
    pub code: Vec<u8>,
    pub cost: CompileCost,
}

/// What the compilation of a plugin took of its limits.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CompileCost {
    /// Wall time.
    pub time: Duration,
    /// Peak memory of the compiler's process, in bytes; 0 when a thread of this process compiled.
    pub memory: usize,
}

/// Compiles a component when this process was started for that, and lets this process start such ones.
///
/// An executable that loads plugins should call it as the first thing of its `main`, and end with the exit code where there is
/// one. Without it plugins are compiled on threads of the process: `limits.compile_mb` does not hold then, and a compilation that
/// exceeds `limits.compile_seconds` goes on in the background.
pub fn compile_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(COMPILE) {
        TAKES_PART.store(true, Relaxed);
        return None;
    }
    let numbers: Option<Vec<u64>> = arguments.map(|argument| argument.parse().ok()).collect();
    let done = match numbers.as_deref() {
        Some([stack, memory, seconds]) => answer(*stack as usize, *memory, *seconds),
        _ => Err(io::Error::other("wrong arguments")),
    };
    // Whoever waits for the code sees that it is not there.
    Some(if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Compiles standard input to standard output: a byte that says whether it worked, the peak memory, then the code or why not.
fn answer(stack: usize, memory: u64, seconds: u64) -> io::Result<()> {
    // The thread that waits for the answer started this process: it ends with that one, as nobody else wants it.
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    // Of the memory what is private and writable counts: address space that is only reserved costs nothing.
    setrlimit(Resource::RLIMIT_DATA, memory, memory)?;
    // The parent looks at the clock; this is for where the system cannot end it with its parent.
    let cores = thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let cpu = seconds.saturating_mul(cores).saturating_add(1);
    setrlimit(Resource::RLIMIT_CPU, cpu, cpu)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0)?;
    let mut component = Vec::new();
    io::stdin().lock().read_to_end(&mut component)?;
    let compiled = match sandbox::engine(stack) {
        Ok(engine) => engine.precompile_component(&component).map_err(|error| format!("{error:#}")),
        Err(error) => Err(error.to_string()),
    };
    let mut out = io::stdout().lock();
    out.write_all(&[u8::from(compiled.is_ok())])?;
    out.write_all(&peak_memory().to_le_bytes())?;
    match &compiled {
        Ok(code) => out.write_all(code)?,
        Err(message) => out.write_all(message.as_bytes())?,
    }
    out.flush()
}

/// The peak of this process's memory in bytes; 0 where the system does not tell. (What `getrusage` tells after `exec` is the
/// parent's.)
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
    line.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Compiles `component` for `engine`; `path` is for the errors only.
pub(super) fn compile(
    engine: &Engine,
    path: &Path,
    component: &Bytes,
    limits: &Limits,
) -> Result<Compiled, PluginError> {
    let started = Instant::now();
    let mut compiled = match TAKES_PART.load(Relaxed) {
        true => in_a_process(path, component, limits)?,
        false => on_a_thread(engine, path, component, limits)?,
    };
    compiled.cost.time = started.elapsed();
    Ok(compiled)
}

fn on_a_thread(
    engine: &Engine,
    path: &Path,
    component: &Bytes,
    limits: &Limits,
) -> Result<Compiled, PluginError> {
    let (done, compiled) = mpsc::sync_channel(1);
    let (engine, bytes) = (engine.clone(), component.clone());
    let compile = move || {
        // Nobody listens any more when it took too long.
        let _ = done.send(engine.precompile_component(&bytes).map_err(|error| format!("{error:#}")));
    };
    thread::Builder::new().name("plugin-compiler".into()).spawn(compile).map_err(cannot_start)?;
    match compiled.recv_timeout(limits.compile_time) {
        Ok(Ok(code)) => Ok(Compiled { code, cost: CompileCost::default() }),
        Ok(Err(message)) => Err(invalid(path, component, message)),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(too_long(path, limits)),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(crashed(path, "it panicked".into())),
    }
}

fn in_a_process(path: &Path, component: &Bytes, limits: &Limits) -> Result<Compiled, PluginError> {
    let mut compiler = spawn(limits).map_err(cannot_start)?;
    let (stdin, stdout, stderr) = (compiler.stdin.take(), compiler.stdout.take(), compiler.stderr.take());
    let most = component.len() as u64 * MAX_GROWTH + (1 << 20);
    let (done, answered) = mpsc::sync_channel(1);
    let (answer, said) = thread::scope(|scope| {
        // It may end before it has read everything; what it says then is what counts.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(component)));
        let said = scope.spawn(move || read(stderr, MAX_SAID));
        scope.spawn(move || done.send(read(stdout, most)));
        let answer = answered.recv_timeout(limits.compile_time);
        // It has nothing left to do but to end; or it has to.
        if answer.is_err() {
            let _ = compiler.kill();
        }
        (answer, said.join().unwrap_or_default())
    });
    let status = compiler.wait().map_err(cannot_start)?;
    let Ok(answer) = answer else { return Err(too_long(path, limits)) };
    match answer.split_first_chunk::<9>() {
        Some((&[worked, ref memory @ ..], rest)) if status.success() => {
            let memory = u64::from_le_bytes(*memory) as usize;
            match worked {
                1 => Ok(Compiled {
                    code: rest.to_vec(),
                    cost: CompileCost { memory, ..CompileCost::default() },
                }),
                _ => Err(invalid(path, component, String::from_utf8_lossy(rest).into_owned())),
            }
        }
        _ => {
            let said = String::from_utf8_lossy(&said);
            // What Rust says when it cannot allocate, before it aborts.
            match said.contains("memory allocation of") {
                true => Err(PluginError::CompileMemory { path: path.into(), limit: limits.compile_memory }),
                false => Err(crashed(path, format!("{status}: {}", said.trim()))),
            }
        }
    }
}

fn spawn(limits: &Limits) -> io::Result<Child> {
    // This very file, also when another was put in its place meanwhile.
    let this = PathBuf::from("/proc/self/exe");
    let program = if this.exists() { this } else { std::env::current_exe()? };
    let (memory, seconds) = (limits.compile_memory, limits.compile_time.as_secs().max(1));
    Command::new(program)
        .args([COMPILE, &limits.stack.to_string(), &memory.to_string(), &seconds.to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// All of a pipe, at most `limit` bytes; the rest is left, so that its writer ends with an error.
fn read(pipe: Option<impl Read>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was read until an error is what there is.
    let _ = pipe.map(|pipe| pipe.take(limit).read_to_end(&mut bytes));
    bytes
}

fn cannot_start(error: io::Error) -> PluginError {
    PluginError::Engine(format!("cannot run the compiler: {error}"))
}

fn too_long(path: &Path, limits: &Limits) -> PluginError {
    PluginError::CompileTime { path: path.into(), limit: limits.compile_time }
}

fn crashed(path: &Path, message: String) -> PluginError {
    PluginError::Compiler { path: path.into(), message }
}

fn invalid(path: &Path, component: &[u8], mut message: String) -> PluginError {
    // What the parser says about a file that was cut, which is the likeliest way to come by an invalid one.
    if message.contains("unexpected end") || message.contains("is out of bounds") {
        let length = component.len();
        message += &format!("; it ends after {length} bytes: copy or build it again, it was cut");
    }
    PluginError::Invalid { path: path.into(), message }
}
